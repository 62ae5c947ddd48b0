"""What every registered objective must do, in an epoch of training."""

import torch

from decrop.classifiers.classifier import Classifier
from decrop.config.training import OBJECTIVES
from decrop.training.denoiser import DenoiserTrainer
from tests.cases import cases
from tests.decrop.tiny import CPU, random_samples, same, tiny_classifier, tiny_config
from tests.decrop.training.denoiser_trainers import weights

IMAGES = 12


def trainer_of(objective: str, classifier: Classifier) -> DenoiserTrainer:
    config = tiny_config(training={"objective": objective, "epochs": 1, "discriminator_epochs": 1})
    return DenoiserTrainer(config, classifier, random_samples(IMAGES), CPU)


@cases("objective", OBJECTIVES)
def test_it_trains_the_denoiser_and_never_the_classifier(objective: str) -> None:
    classifier = tiny_classifier()
    before = classifier.content_hash()
    trainer = trainer_of(objective, classifier)
    untrained = weights(trainer)
    record = trainer.run_epoch()
    assert torch.isfinite(torch.tensor(record.total))
    assert not same(weights(trainer), untrained)
    assert all(parameter.grad is not None for parameter in trainer.denoiser.parameters())
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert classifier.content_hash() == before


@cases("objective", OBJECTIVES)
def test_the_same_seed_trains_the_same_also_from_a_saved_state(objective: str) -> None:
    first, second = (trainer_of(objective, tiny_classifier()) for _ in range(2))
    first.run_epoch()
    second.run_epoch()
    assert same(weights(first), weights(second))
    resumed = trainer_of(objective, tiny_classifier())
    resumed.load_state_dict(second.state_dict())
    if objective == "decrop":
        first.run_epoch()
        resumed.run_epoch()
    assert same(weights(first), weights(resumed))
