"""Inspection of a classifier: what is understood of it, and its accuracy under noise."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from decrop.classifiers.predictions import predicted_classes
from decrop.classifiers.storage import AnyClassifier
from decrop.config import ClassifierSettings, TrialConfig
from decrop.data.limited import LabelledImages
from decrop.smoothing.collect import CountCollector
from decrop.smoothing.execution import resolve_device
from decrop.smoothing.procedures import class_counts
from decrop.trial.certify import CertificationTask, local_sampler, sampling_task, with_batch_size

SIGMAS = (0.12, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Inspection:
    """What was understood.

    Attributes:
        source: as the settings name it.
        architecture: what was found there; of an endpoint what it gives, and by which protocol.
        arguments: that it was given.
        parameters: number of trained values; None behind an endpoint, as everything is that only
            the network could tell.
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
        draws: noise samples of each image and standard deviation.
        clean_accuracy: without noise, in fp32.
        noisy_accuracy: share of noisy samples that are classified rightly, by standard deviation.
        samples_per_second: that certification would take of this classifier alone.
        device: on which.
        precision: in which noise was classified.
        layout: of images in memory, in which it was.
    """

    source: str
    architecture: str
    arguments: dict[str, Any]
    parameters: int | None
    image_shape: tuple[int, ...]
    input_size: tuple[int, ...]
    channel_order: str | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    classes: int
    feature_layer: str | None
    features: int | None
    images: int
    split: str
    draws: int
    clean_accuracy: float
    noisy_accuracy: dict[str, float]
    samples_per_second: float
    device: str
    precision: str
    layout: str

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return asdict(self)


def inspect_classifier(
    settings: ClassifierSettings,
    config: TrialConfig,
    classifier: AnyClassifier,
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
        classifier: on the CPU, or behind an endpoint.
        images: to measure on.
        split: they are from.
        draws: noise samples of each image and standard deviation, >= 1.
        sigmas: standard deviations, in [0,1] pixels.
        on_sigma: called with the standard deviations that are done and how many there are.

    Raises:
        EndpointError: an endpoint does not answer, or not what a classifier must.
        QueryBudgetError: an endpoint's budget is spent.
    """
    class_count = classifier.class_count
    certified = CertificationTask(classifier, images, "test", class_count)
    config = _in_chunks_of(draws, with_batch_size(config, certified))
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
        collector = CountCollector.of(task, local_sampler(config, task))
        started = time.perf_counter()
        counts = class_counts(collector, draws)
        seconds += time.perf_counter() - started
        right = counts[range(len(images)), images.labels.tolist()].sum()
        accuracy[f"{sigma:g}"] = float(right) / (draws * len(images))
    predicted = predicted_classes(classifier, images.images, torch.device("cpu"))
    return Inspection(
        source=settings.source,
        **classifier.understood(images.images),
        classes=class_count,
        images=len(images),
        split=split,
        draws=draws,
        clean_accuracy=(predicted == images.labels).double().mean().item(),
        noisy_accuracy=accuracy,
        samples_per_second=len(sigmas) * draws * len(images) / seconds,
        device=resolve_device(config.execution.device).type,
        precision=task.precision,
        layout=task.layout,
    )


def most_inspection_queries(images: int, draws: int, sigmas: Sequence[float] = SIGMAS) -> int:
    """Return how many images `inspect_classifier` asks an endpoint for."""
    return images * (1 + draws * len(sigmas))


def _in_chunks_of(draws: int, config: TrialConfig) -> TrialConfig:
    """Return the settings with chunks of so many samples, in batches about as large as before."""
    execution = config.execution
    assert execution.chunks_per_batch != "auto"  # with_batch_size puts a number in its place
    rows = execution.chunk_size * execution.chunks_per_batch
    changes = {"chunk_size": draws, "chunks_per_batch": max(1, rows // draws)}
    return config.model_copy(update={"execution": execution.model_copy(update=changes)})
