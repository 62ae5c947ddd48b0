"""Classifiers, data and stage-1 samples on which a test computes for milliseconds."""

from typing import Any

import torch
from torch import Tensor, nn

from decrop.classifiers.classifier import Classifier
from decrop.config import TrialConfig
from decrop.data.datasets import Dataset
from decrop.data.images import InMemoryImages
from decrop.data.limited import LabelledImages, LimitedData
from decrop.documents import merge, trial_config
from decrop.seeds import seeded_globals, torch_generator
from decrop.synthesis.synthetic_samples import SyntheticSamples

CPU = torch.device("cpu")
SIZE = 6
FEATURES = 5
CLASSES = 4

TINY_TRIAL = {
    "sigma": 0.1,
    "denoiser": {"depth": 4, "channels": 4},
    "training": {
        "epochs": 2,
        "discriminator_epochs": 2,
        "batch_size": 8,
        "learning_rate": 0.01,
        "discriminator": {"hidden_units": 6, "learning_rate": 0.01},
        "augmentation": {"crop_padding": 1},
    },
    "execution": {"training_precision": "fp32"},
}


def tiny_config(**changes: Any) -> TrialConfig:
    """Return settings of a trial that trains in milliseconds, with nested changes."""
    return trial_config(merge(TINY_TRIAL, changes), source="test")


def tiny_classifier(seed: int = 0, channels: int = 1) -> Classifier:
    """A smooth random network with a hidden layer, on images [B, channels, SIZE, SIZE]."""
    with seeded_globals(seed, "tiny classifier"):
        network = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * SIZE * SIZE, FEATURES),
            nn.Tanh(),
            nn.Linear(FEATURES, CLASSES),
        )
    return Classifier(
        network,
        architecture="tiny",
        mean=(0.5,) * channels,
        std=(0.1,) * channels,
        class_count=CLASSES,
    )


def random_images(count: int, seed: int = 0, size: int = SIZE) -> Tensor:
    """Return images uint8 [count, 1, size, size]."""
    shape = (count, 1, size, size)
    generator = torch_generator(seed, "random images")
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def labelled(classifier: Classifier, images: Tensor) -> LabelledImages:
    """Label images uint8 with the classifier's own predictions."""
    labels = classifier(images.float() / 255).argmax(1)
    return LabelledImages(images, labels, torch.arange(len(images)))


def limited(images: LabelledImages) -> LimitedData:
    """Hold every fourth image out."""
    return LimitedData(images, torch.arange(len(images)) % 4 == 3)


def random_samples(count: int, *, interpolated: int = 1, seed: int = 0) -> SyntheticSamples:
    """Return stage-1 samples near each other, every third boundary sample unflipped."""
    generator = torch_generator(seed, "random samples")
    clean = random_images(count, seed).float() / 255
    boundary = clean + 0.2 * torch.rand(clean.shape, generator=generator) - 0.1
    between = clean + 0.1 * torch.rand(interpolated, *clean.shape, generator=generator) - 0.05
    return SyntheticSamples(
        clean=clean,
        boundary=boundary.clamp(0, 1),
        flipped=torch.arange(count) % 3 != 0,
        interpolated=between.clamp(0, 1),
        logit_errors=torch.rand(interpolated, count, generator=generator),
    )


def tiny_dataset(
    labels: Tensor, *, class_count: int, images: Tensor | None = None, channels: int = 1
) -> Dataset:
    """Return a dataset whose image i is filled with i mod 256, unless images are given."""
    if images is None:
        values = torch.arange(len(labels)).remainder(256).to(torch.uint8)
        images = values[:, None, None, None].expand(-1, channels, 2, 2)
    return Dataset(
        name="tiny",
        train=InMemoryImages(images, labels),
        test=InMemoryImages(images, labels),
        class_names=tuple(f"class {label}" for label in range(class_count)),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )


def same(one: Any, other: Any) -> bool:
    """Compare nested states to the bit, but for the seconds that epochs took."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            same(one[key], other[key]) for key in one if key != "seconds"
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
