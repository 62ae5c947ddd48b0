"""From settings to a classifier: weights or training, and what is missing for either."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from decrop.classifiers.load import untrained_classifier
from decrop.config import ClassifierSettings
from decrop.data.datasets import Dataset
from decrop.errors import InputError
from decrop.networks.registry import build_classifier_network
from tests.decrop.tiny import random_images, tiny_dataset
from tests.refusals import one_line

pytestmark = pytest.mark.usefixtures("one_thread")

TRAINING = {"epochs": 1, "batch_size": 16}


def dataset(seed: int = 0, channels: int = 1) -> Dataset:
    images = random_images(24, seed).expand(-1, channels, -1, -1)
    return tiny_dataset(torch.arange(24) % 4, class_count=4, images=images, channels=channels)


def settings(**given: Any) -> ClassifierSettings:
    return ClassifierSettings.model_validate(given)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    network = build_classifier_network("cifar_resnet20", image_channels=1, class_count=4)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


@pytest.mark.parametrize("architecture", ["auto", "cifar_resnet20"])
def test_weights_are_loaded(weights: Path, architecture: str) -> None:
    given = settings(weights=str(weights), source=architecture)
    classifier = untrained_classifier(given, dataset())
    assert classifier.architecture == "cifar_resnet20"
    torch.manual_seed(3)
    network = build_classifier_network("cifar_resnet20", image_channels=1, class_count=4).eval()
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(classifier(images), network((images - 0.5) / 0.25))
    assert classifier.class_count == 4


def test_statistics_are_the_datasets_unless_given(weights: Path) -> None:
    default = untrained_classifier(settings(weights=str(weights)), dataset())
    assert (default.mean.item(), default.std.item()) == (0.5, 0.25)
    given = untrained_classifier(
        settings(weights=str(weights), mean=[0.125], std=[0.75]), dataset()
    )
    assert (given.mean.item(), given.std.item()) == (0.125, 0.75)


def test_data_without_statistics_ask_for_them(weights: Path) -> None:
    unknown = replace(dataset(), mean=None, std=None)
    message = one_line(untrained_classifier, settings(weights=str(weights)), unknown)
    assert message.startswith("classifier.mean: tiny has no channel statistics of its own")
    assert "--set classifier.mean=[0.5] --set classifier.std=[0.5]" in message
    given = settings(weights=str(weights), mean=[0.125], std=[0.75])
    assert untrained_classifier(given, unknown).std.item() == 0.75


@pytest.mark.parametrize("name", ["small_cnn", "cifar_resnet56"])
def test_weights_of_another_architecture_are_refused(weights: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"does not fit {name}"):
        untrained_classifier(settings(weights=str(weights), source=name), dataset())


def test_classifier_without_a_source_is_refused() -> None:
    for given in (settings(), settings(source="small_cnn")):
        said = one_line(untrained_classifier, given, dataset())
        assert "--set classifier.weights=FILE" in said
        assert "--set classifier.training.epochs=30" in said


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5, 0.5, 0.5], [0.2], r"classifier\.mean: 3 values given; tiny has 1 channel\."),
        ([0.5], [0.2, 0.2], r"classifier\.std: 2 values given; tiny has 1 channel\."),
    ],
)
def test_statistics_of_other_channels_are_refused(
    weights: Path, mean: list[float], std: list[float], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        untrained_classifier(settings(weights=str(weights), mean=mean, std=std), dataset())


@pytest.mark.parametrize("name", ["resnet12", "half_alexnet"])
def test_images_too_small_for_the_architecture_are_refused(name: str) -> None:
    given = settings(source=name, training=TRAINING)
    text = one_line(untrained_classifier, given, dataset())
    assert text.startswith(f"classifier.source: {name} needs images of 1")
    assert "tiny has 6x6. Use one of small_cnn, cifar_resnet20, " in text
    assert "resnet18" in text and "alexnet" not in text.removeprefix(f"classifier.source: {name}")
    enough = tiny_dataset(torch.arange(4), class_count=4, images=random_images(4, size=16))
    assert untrained_classifier(given, enough).architecture == name


def test_training_starts_from_given_weights(weights: Path) -> None:
    training = {**TRAINING, "initial_weights": str(weights)}
    given = settings(source="cifar_resnet20", training=training)
    loaded = untrained_classifier(
        settings(source="cifar_resnet20", weights=str(weights)), dataset()
    )
    assert untrained_classifier(given, dataset()).content_hash() == loaded.content_hash()
