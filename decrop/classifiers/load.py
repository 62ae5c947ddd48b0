"""From settings to the classifier to protect."""

from pathlib import Path

import torch
from torch import nn

from decrop.cache import ContentCache, Tensors
from decrop.classifiers.classifier import Classifier
from decrop.classifiers.train import train_classifier_network
from decrop.classifiers.weights import load_weights
from decrop.config import ClassifierSettings, ClassifierTrainingSettings
from decrop.data.datasets import Dataset
from decrop.errors import InputError
from decrop.files import sha256_of_tensors
from decrop.networks.registry import build_classifier_network


def load_classifier(
    settings: ClassifierSettings, dataset: Dataset, cache: ContentCache, device: torch.device
) -> Classifier:
    """Load the classifier's weights, or train it on the whole training split if so asked.

    A trained classifier is kept in `cache` under its dataset, architecture and training settings.

    Raises:
        InputError: neither weights nor training is given, or weights or statistics do not fit.
    """
    mean, std = _statistics(settings, dataset)
    network = _untrained(settings, dataset)
    if settings.training is not None:
        weights = _trained(settings, settings.training, dataset, network, mean, std, cache, device)
        network.load_state_dict(weights)
    return Classifier(
        network,
        architecture=settings.architecture,
        mean=mean,
        std=std,
        class_count=dataset.class_count,
    )


def check_classifier(settings: ClassifierSettings, dataset: Dataset) -> None:
    """Raise what `load_classifier` would, without training.

    Raises:
        InputError: neither weights nor training is given, or weights or statistics do not fit.
    """
    _statistics(settings, dataset)
    _untrained(settings, dataset)


def _statistics(
    settings: ClassifierSettings, dataset: Dataset
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, std = settings.mean or dataset.mean, settings.std or dataset.std
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != dataset.channels:
            raise InputError(
                f"classifier.{name}: {len(values)} values given; {dataset.name} has "
                f"{dataset.channels} channels."
            )
    return mean, std


def _untrained(settings: ClassifierSettings, dataset: Dataset) -> nn.Module:
    """Build the network, with its weights where a file is given."""
    network = build_classifier_network(
        settings.architecture,
        image_channels=dataset.channels,
        class_count=dataset.class_count,
    )
    if settings.weights is not None:
        load_weights(network, Path(settings.weights), architecture=settings.architecture)
    elif settings.training is None:
        raise InputError(
            "classifier.weights: no file is given for the pretrained classifier; give one with "
            "--set classifier.weights=PATH, or train one with --set classifier.training.epochs=30."
        )
    return network


def _trained(
    settings: ClassifierSettings,
    training: ClassifierTrainingSettings,
    dataset: Dataset,
    network: nn.Module,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    cache: ContentCache,
    device: torch.device,
) -> Tensors:
    labels = dataset.train.labels
    images = dataset.train.images(torch.arange(len(labels)))
    determined_by = {
        "architecture": settings.architecture,
        "training": training.model_dump(),
        "mean": mean,
        "std": std,
        "data": sha256_of_tensors({"images": images, "labels": labels}),
    }

    def train() -> Tensors:
        return train_classifier_network(network, images, labels, training, mean, std, device)

    return cache.get("classifier", determined_by, train)
