"""The classifier to protect, from settings, checked on noise."""

import torch

from decrop.classifiers.classifier import Classifier
from decrop.classifiers.sources import Network, load_network
from decrop.config import ClassifierSettings
from decrop.data.datasets import Dataset
from decrop.errors import InputError, one_line
from decrop.seeds import torch_generator
from decrop.wording import counted


def untrained_classifier(settings: ClassifierSettings, dataset: Dataset) -> Classifier:
    """Build the classifier as far as it goes without training: with weights where there is a file.

    Weights that training starts from are loaded too. Runs code that the settings name, so they must
    be the user's own.
    """
    if settings.channel_order == "bgr" and dataset.channels != 3:
        raise InputError(
            f"classifier.channel_order: bgr needs images of 3 channels; {dataset.name} has "
            f"{dataset.channels}."
        )
    network = load_network(settings, dataset)
    mean, std = _statistics(settings, dataset, network)
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
    settings: ClassifierSettings, dataset: Dataset, network: Network
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean = settings.mean or network.mean or dataset.mean
    std = settings.std or network.std or dataset.std
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
                f"classifier.{name}: {counted(len(values), 'value')} given; "
                f"{dataset.name} has {counted(dataset.channels, 'channel')}."
            )
    return mean, std


# Relative: batched kernels may give other last bits to other rows.
_TOLERANCE = 1e-3


@torch.no_grad()
def check_classifier(classifier: Classifier, shape: tuple[int, ...], *, source: str) -> None:
    """Run a classifier on two batches of noise that begin with the same image.

    Args:
        classifier: on the CPU.
        shape: of an image, [C, H, W].
    """
    images = torch.rand((3, *shape), generator=torch_generator(0, "trial images"))
    first = _logits(classifier, images[[0, 1]], source)
    second = _logits(classifier, images[[0, 2]], source)
    scale = first[0].abs().max().clamp(min=1e-6)
    if not ((first[0] - second[0]).abs() <= _TOLERANCE * scale).all():
        raise InputError(
            f"classifier.source: {source} gives an image other logits when another one stands "
            "beside it, or when it is asked again (BatchNorm by the batch, or dropout?); only a "
            "network that answers for each image alone, always the same, can be certified."
        )
    classifier.feature_layer_and_count(images[:1])


def _logits(classifier: Classifier, images: torch.Tensor, source: str) -> torch.Tensor:
    shape = list(images.shape)
    try:
        logits = classifier(images)
    except InputError:
        raise
    except Exception as error:  # code of others may raise anything
        raise InputError(
            f"classifier.source: {source} fails on images {shape} with {type(error).__name__}: "
            f"{one_line(str(error), 300)}; is classifier.input_size the size it takes?"
        ) from error
    expected = [len(images), classifier.class_count]
    if not isinstance(logits, torch.Tensor) or list(logits.shape) != expected:
        found = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(
            f"classifier.source: {source} gives {found} for images {shape}; it must give logits "
            f"{expected}, one row an image and one column a class of the data."
        )
    if not logits.isfinite().all():
        raise InputError(f"classifier.source: {source} gives logits that are not finite numbers.")
    return logits
