"""What every registered objective must do, in an epoch of training."""

import torch
from torch import Tensor

from decrop.classifiers.classifier import Classifier
from decrop.config.training import OBJECTIVES
from decrop.training.denoiser import DenoiserTrainer
from tests.cases import cases
from tests.decrop.tiny import CPU, random_samples, tiny_classifier, tiny_config

IMAGES = 12


def trainer_of(objective: str, classifier: Classifier) -> DenoiserTrainer:
    config = tiny_config(training={"objective": objective, "epochs": 1, "discriminator_epochs": 1})
    return DenoiserTrainer(config, classifier, random_samples(IMAGES), CPU)


def weights_of(trainer: DenoiserTrainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.denoiser.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@cases("objective", OBJECTIVES)
def test_it_trains_the_denoiser_and_never_the_classifier(objective: str) -> None:
    classifier = tiny_classifier()
    before = classifier.content_hash()
    trainer = trainer_of(objective, classifier)
    untrained = weights_of(trainer)
    record = trainer.run_epoch()
    assert torch.isfinite(torch.tensor(record.total))
    assert not equal(weights_of(trainer), untrained)
    assert all(parameter.grad is not None for parameter in trainer.denoiser.parameters())
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert classifier.content_hash() == before


@cases("objective", OBJECTIVES)
def test_the_same_seed_trains_the_same_also_from_a_saved_state(objective: str) -> None:
    first, second = (trainer_of(objective, tiny_classifier()) for _ in range(2))
    first.run_epoch()
    second.run_epoch()
    assert equal(weights_of(first), weights_of(second))
    resumed = trainer_of(objective, tiny_classifier())
    resumed.load_state_dict(second.state_dict())
    if objective == "decrop":
        first.run_epoch()
        resumed.run_epoch()
    assert equal(weights_of(first), weights_of(resumed))
