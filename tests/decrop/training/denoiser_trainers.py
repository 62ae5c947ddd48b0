"""Trainers of tiny denoisers, and what their steps are made of."""

import dataclasses
from typing import Any

from torch import Tensor, nn

from decrop.classifiers.classifier import Classifier
from decrop.synthesis.synthetic_samples import SyntheticSamples
from decrop.training.denoiser import DenoiserTrainer, EpochRecord
from tests.decrop.tiny import CPU, random_samples, tiny_classifier, tiny_config

IMAGES = 12


PLAIN = {"crop_padding": 0, "flip_probability": 0.0}


# None to speak of, and the one procedure that certifies with it.
NO_NOISE: dict[str, Any] = {"sigma": 1e-6, "certification": {"procedure": "fixed"}}


NO_WEIGHTS = {"label_consistency": 0, "cosine": 0, "mmd": 0, "discriminator": 0}


def make_trainer(
    samples: SyntheticSamples | None = None, classifier: Classifier | None = None, **changes: Any
) -> DenoiserTrainer:
    config = tiny_config(**changes)
    return DenoiserTrainer(
        config, classifier or tiny_classifier(), samples or random_samples(IMAGES), CPU
    )


def trained(epochs: int = 4, **changes: Any) -> DenoiserTrainer:
    trainer = make_trainer(**changes)
    for _ in range(epochs):
        trainer.run_epoch()
    return trainer


def weights(trainer: DenoiserTrainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.denoiser.state_dict().items()}


@dataclasses.dataclass
class Recording:
    """What went into and came out of the denoiser, and into the classifier, call by call.

    `told` are the sigmas that the denoiser got, where it takes any.
    """

    noisy: list[Tensor] = dataclasses.field(default_factory=list)
    denoised: list[Tensor] = dataclasses.field(default_factory=list)
    classified: list[Tensor] = dataclasses.field(default_factory=list)
    told: list[Tensor] = dataclasses.field(default_factory=list)


def record_epoch(trainer: DenoiserTrainer) -> tuple[Recording, EpochRecord]:
    found = Recording()

    def denoise(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.noisy.append(inputs[0].detach().clone())
        found.told += [sigma.clone() for sigma in inputs[1:]]
        found.denoised.append(output.detach().clone())

    def classify(_: nn.Module, inputs: tuple[Tensor]) -> None:
        found.classified.append(inputs[0].detach().clone())

    handles = [
        trainer.network.register_forward_hook(denoise),
        trainer._classifier.classifier.register_forward_pre_hook(classify),
    ]
    record = trainer.run_epoch()
    for handle in handles:
        handle.remove()
    return found, record


def positions(rows: Tensor, images: Tensor) -> list[int]:
    """Find which image each row is."""
    equal = (rows[:, None] - images[None]).flatten(2).abs().amax(2) < 1e-4
    assert (equal.sum(1) == 1).all()
    return equal.int().argmax(1).tolist()
