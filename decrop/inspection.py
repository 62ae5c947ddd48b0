"""What decrop understands a classifier to be, measured before anything is trained behind it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from decrop.certification import sampling_task, with_batch_size
from decrop.classifiers.classifier import Classifier
from decrop.config import ClassifierSettings, TrialConfig
from decrop.data.limited import LabelledImages
from decrop.smoothing.certify import class_counts
from decrop.smoothing.execution import resolve_device
from decrop.smoothing.sampling import LocalSampler

SIGMAS = (0.12, 0.25, 0.5, 1.0)
_AT_ONCE = 50


@dataclass(frozen=True)
class Inspection:
    """What was understood.

    Attributes:
        source: as the settings name it.
        architecture: what was found there.
        arguments: that it was given.
        parameters: number of trained values.
        image_shape: channels, height and width of the data.
        input_size: height and width that the network takes.
        channel_order: in which it takes the channels.
        mean: of each channel, in [0,1] pixels.
        std: of each channel.
        classes: how many.
        feature_layer: whose input is the features.
        features: how many.
        images: that accuracies were measured on.
        split: they are from.
        draws: of noise, of each image and standard deviation.
        clean_accuracy: without noise, in fp32.
        noisy_accuracy: share of draws that are classified rightly, by standard deviation.
        samples_per_second: that certification would draw of this classifier alone.
        device: on which.
        precision: in which noise was classified.
    """

    source: str
    architecture: str
    arguments: dict[str, Any]
    parameters: int
    image_shape: tuple[int, ...]
    input_size: tuple[int, ...]
    channel_order: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    feature_layer: str
    features: int
    images: int
    split: str
    draws: int
    clean_accuracy: float
    noisy_accuracy: dict[str, float]
    samples_per_second: float
    device: str
    precision: str

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return asdict(self)


def inspect_classifier(
    settings: ClassifierSettings,
    config: TrialConfig,
    classifier: Classifier,
    images: LabelledImages,
    *,
    split: str,
    draws: int,
    sigmas: Sequence[float] = SIGMAS,
    on_sigma: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Measure a classifier alone, by the sampling engine that certifies.

    Args:
        settings: that the classifier is from.
        config: seed, chunk size, precision and device are read.
        classifier: on the CPU.
        images: to measure on.
        split: they are from.
        draws: of noise, of each image and standard deviation, >= 1.
        sigmas: standard deviations, in [0,1] pixels.
        on_sigma: called with the standard deviations that are done and how many there are.

    Raises:
        InputError: a batch does not fit into memory.
    """
    device = resolve_device(config.execution.device)
    class_count = classifier.class_count
    config = _in_chunks_of(
        draws, with_batch_size(config, classifier, images, class_count=class_count)
    )
    accuracy, seconds = {}, 0.0
    for done, sigma in enumerate(sigmas):
        if on_sigma is not None:
            on_sigma(done, len(sigmas))
        task = sampling_task(
            config.model_copy(update={"sigma": sigma}),
            classifier,
            images.images,
            # Consecutive, so that batches are full.
            torch.arange(len(images)),
            split="test" if split == "test" else "held_out",
            class_count=class_count,
        )
        sampler = LocalSampler(task, device)
        started = time.perf_counter()
        counts = class_counts(
            sampler,
            len(images),
            samples=draws,
            class_count=class_count,
            chunk_size=task.chunk_size,
        )
        seconds += time.perf_counter() - started
        right = counts[range(len(images)), images.labels.tolist()].sum()
        accuracy[f"{sigma:g}"] = float(right) / (draws * len(images))
    layer, features = classifier.feature_layer_and_count(images.images[:1].float() / 255)
    shape = tuple(images.images.shape[1:])
    return Inspection(
        source=settings.source,
        architecture=classifier.architecture,
        arguments=classifier.arguments,
        parameters=sum(parameter.numel() for parameter in classifier.network.parameters()),
        image_shape=shape,
        input_size=classifier.input_size or shape[1:],
        channel_order=classifier.channel_order,
        mean=tuple(classifier.mean.flatten().tolist()),
        std=tuple(classifier.std.flatten().tolist()),
        classes=class_count,
        feature_layer=layer,
        features=features,
        images=len(images),
        split=split,
        draws=draws,
        clean_accuracy=_clean_accuracy(classifier, images),
        noisy_accuracy=accuracy,
        samples_per_second=len(sigmas) * draws * len(images) / seconds,
        device=device.type,
        precision=task.precision,
    )


def _in_chunks_of(draws: int, config: TrialConfig) -> TrialConfig:
    """Return the settings with chunks of so many draws, in batches about as large as before."""
    execution = config.execution
    assert execution.chunks_per_batch != "auto"  # with_batch_size puts a number in its place
    rows = execution.chunk_size * execution.chunks_per_batch
    changes = {"chunk_size": draws, "chunks_per_batch": max(1, rows // draws)}
    return config.model_copy(update={"execution": execution.model_copy(update=changes)})


@torch.inference_mode()
def _clean_accuracy(classifier: Classifier, images: LabelledImages) -> float:
    predicted = torch.cat(
        [classifier(part.float() / 255).argmax(1) for part in images.images.split(_AT_ONCE)]
    )
    return float((predicted == images.labels).double().mean())
