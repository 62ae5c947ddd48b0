"""From settings to the classifier to protect."""

from pathlib import Path

import torch

from decrop.classifiers.classifier import Classifier
from decrop.classifiers.weights import load_weights, matching_architecture
from decrop.config import ClassifierArchitecture, ClassifierSettings
from decrop.data.datasets import Dataset
from decrop.errors import InputError
from decrop.networks.registry import CLASSIFIERS, SMALLEST_IMAGES, build_classifier_network


def untrained_classifier(settings: ClassifierSettings, dataset: Dataset) -> Classifier:
    """Build the classifier as far as it goes without training: with weights where there is a file.

    Weights that training starts from are loaded too.

    Raises:
        InputError: neither weights nor training is given, or weights, statistics or the size of
            the images do not fit.
    """
    mean, std = _statistics(settings, dataset)
    architecture = _architecture(settings, dataset)
    _check_image_size(architecture, dataset)
    network = build_classifier_network(
        architecture, image_channels=dataset.channels, class_count=dataset.class_count
    )
    if settings.weights is not None:
        load_weights(network, Path(settings.weights), architecture=architecture)
    elif settings.training is not None and settings.training.initial_weights is not None:
        load_weights(
            network,
            Path(settings.training.initial_weights),
            architecture=architecture,
            setting="classifier.training.initial_weights",
        )
    return Classifier(
        network,
        architecture=architecture,
        mean=mean,
        std=std,
        class_count=dataset.class_count,
    )


def _statistics(
    settings: ClassifierSettings, dataset: Dataset
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, std = settings.mean or dataset.mean, settings.std or dataset.std
    if mean is None or std is None:
        example = ",".join(["0.5"] * dataset.channels)
        raise InputError(
            f"classifier.mean: {dataset.name} has no channel statistics of its own; give those the "
            f"classifier is trained with, as in --set classifier.mean=[{example}] "
            f"--set classifier.std=[{example}]."
        )
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != dataset.channels:
            raise InputError(
                f"classifier.{name}: {len(values)} values given; {dataset.name} has "
                f"{dataset.channels} channels."
            )
    return mean, std


def _architecture(settings: ClassifierSettings, dataset: Dataset) -> ClassifierArchitecture:
    if settings.weights is None and settings.training is None:
        raise InputError(
            "classifier.weights: no file is given for the pretrained classifier; give one with "
            "--set classifier.weights=FILE, or train one with --set classifier.training.epochs=30 "
            "and a classifier.architecture."
        )
    if settings.architecture != "auto":
        return settings.architecture
    assert settings.weights is not None
    return matching_architecture(
        Path(settings.weights),
        image_channels=dataset.channels,
        class_count=dataset.class_count,
    )


def _check_image_size(architecture: ClassifierArchitecture, dataset: Dataset) -> None:
    smallest = SMALLEST_IMAGES.get(architecture, 1)
    height, width = dataset.train.images(torch.zeros(1, dtype=torch.int64)).shape[-2:]
    if min(height, width) < smallest:
        fitting = [
            name for name in CLASSIFIERS if SMALLEST_IMAGES.get(name, 1) <= min(height, width)
        ]
        raise InputError(
            f"classifier.architecture: {architecture} needs images of {smallest}x{smallest} pixels "
            f"or more; {dataset.name} has {height}x{width}. Use one of {', '.join(fitting)}."
        )
