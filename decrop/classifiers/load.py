"""From settings to the classifier to protect."""

from decrop.classifiers.check import check_classifier
from decrop.classifiers.classifier import Classifier
from decrop.classifiers.sources import load_network
from decrop.config import ClassifierSettings
from decrop.data.datasets import Dataset
from decrop.errors import InputError


def untrained_classifier(settings: ClassifierSettings, dataset: Dataset) -> Classifier:
    """Build the classifier as far as it goes without training: with weights where there is a file.

    Weights that training starts from are loaded too. Runs code that the settings name, so they must
    be the user's own.

    Raises:
        InputError: the source, its weights, the statistics, the size of the images or the feature
            layer do not fit, or what the network gives are no logits of the dataset's classes.
    """
    mean, std = _statistics(settings, dataset)
    if settings.channel_order == "bgr" and dataset.channels != 3:
        raise InputError(
            f"classifier.channel_order: bgr needs images of 3 channels; {dataset.name} has "
            f"{dataset.channels}."
        )
    network = load_network(settings, dataset)
    classifier = Classifier(
        network.module,
        architecture=network.architecture,
        mean=mean,
        std=std,
        class_count=dataset.class_count,
        arguments=settings.arguments,
        input_size=settings.input_size,
        channel_order=settings.channel_order,
        feature_layer=settings.feature_layer,
    )
    check_classifier(classifier, dataset.train.shape, source=settings.source)
    return classifier


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
