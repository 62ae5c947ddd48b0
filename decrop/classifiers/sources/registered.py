"""A registered network, by name or by the weights that fit it."""

from pathlib import Path

from decrop.classifiers.sources.network import Network
from decrop.classifiers.weights import load_weights, matching_architecture
from decrop.config import ClassifierSettings
from decrop.config.classifier_source import AUTO, CLASSIFIERS
from decrop.data.datasets import Dataset
from decrop.errors import InputError
from decrop.networks.registry import build_classifier_network


def registered_network(settings: ClassifierSettings, dataset: Dataset) -> Network:
    """Build a registered network, with its weights unless it is to be trained.

    Raises:
        InputError: neither weights nor training is given, or weights or the size of the images do
            not fit.
    """
    if settings.weights is None and settings.training is None:
        raise InputError(
            "classifier.weights: no file is given for the pretrained classifier; give one with "
            "--set classifier.weights=FILE, or train one with --set classifier.training.epochs=30 "
            "and a classifier.source."
        )
    architecture = _architecture(settings, dataset)
    _check_image_size(architecture, settings, dataset)
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
    return Network(network, architecture)


def _architecture(settings: ClassifierSettings, dataset: Dataset) -> str:
    if settings.source in CLASSIFIERS:
        return settings.source
    assert settings.source == AUTO and settings.weights is not None
    return matching_architecture(
        Path(settings.weights),
        image_channels=dataset.channels,
        class_count=dataset.class_count,
    )


def _check_image_size(architecture: str, settings: ClassifierSettings, dataset: Dataset) -> None:
    smallest = CLASSIFIERS[architecture].smallest
    height, width = settings.input_size or dataset.train.shape[1:]
    if min(height, width) < smallest:
        fitting = [c.name for c in CLASSIFIERS.values() if c.smallest <= min(height, width)]
        raise InputError(
            f"classifier.source: {architecture} needs images of {smallest}x{smallest} pixels "
            f"or more; {dataset.name} has {height}x{width}. Use one of {', '.join(fitting)}."
        )
