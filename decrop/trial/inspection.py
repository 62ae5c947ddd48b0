"""Inspection of a classifier, and of a denoiser before it: what is understood, and how good."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from decrop.classifiers.classifier import Classifier
from decrop.classifiers.predictions import predicted_classes
from decrop.classifiers.storage import AnyClassifier
from decrop.config import ClassifierSettings, TrialConfig
from decrop.data.limited import LabelledImages
from decrop.denoisers.adapted import bare
from decrop.denoisers.check import psnr
from decrop.denoisers.sources import OpenedDenoiser
from decrop.errors import InputError
from decrop.evaluation.accuracy import exact_interval
from decrop.networks.conditional import SigmaConditional, told_sigma
from decrop.networks.denoised import DenoisedClassifier
from decrop.seeds import torch_generator
from decrop.smoothing.collect import CountCollector
from decrop.smoothing.execution import resolve_device
from decrop.smoothing.noise import as_pixels
from decrop.smoothing.prepare import copied, fitting_execution
from decrop.smoothing.procedures import class_counts
from decrop.smoothing.sampling import SamplingTask
from decrop.trial.certify import CertificationTask, local_sampler, sampling_task, with_batch_size
from decrop.trial.result import Split

_AT_ONCE = 100
SIGMAS = (0.12, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class DenoiserInspection:
    """What was understood of a denoiser that is trained already.

    Attributes:
        sigma_range: for which it was made, in [0,1] pixels; None where that is not known.
        pretrained_on: what it has seen, in words.
        psnr: of noisy images and of denoised ones, in dB, by standard deviation.
        noisy_accuracy: of the classifier behind it, by standard deviation.
        samples_per_second: that certification would take of both.
    """

    source: str
    network: str
    parameters: int
    takes_sigma: bool
    sigma_range: tuple[float, float] | None
    pretrained_on: str | None
    psnr: dict[str, tuple[float, float]]
    noisy_accuracy: dict[str, float]
    samples_per_second: float


@dataclass(frozen=True)
class Inspection:
    """What was understood.

    Attributes:
        source: as the settings name it.
        architecture: what was found there; of an endpoint what it gives, and by which protocol.
        parameters: number of trained values; None behind an endpoint, as everything is that only
            the network could tell.
        image_shape: channels, height and width of the data.
        input_size: height and width that the network takes.
        mean: of each channel, in [0,1] pixels.
        images: that accuracies were measured on.
        draws: noise samples of each image and standard deviation.
        clean_accuracy: without noise, in fp32.
        noisy_accuracy: share of noisy samples that are classified rightly, by standard deviation.
        samples_per_second: that certification would take of this classifier alone.
        precision: in which noise was classified.
        layout: of images in memory, in which it was.
        trained_through: whether a denoiser can be trained through it; None behind an endpoint.
        other_input: how the network takes images by far better; None where it
            takes them well, or nobody can tell.
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
    trained_through: bool | None
    other_input: str | None
    denoiser: DenoiserInspection | None = None

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
    denoiser: OpenedDenoiser | None = None,
) -> Inspection:
    """Measure a classifier alone, and behind a denoiser, by the sampling engine that certifies.

    Args:
        config: seed, chunk size, precision and device are read.
        classifier: on the CPU, or behind an endpoint.
        draws: noise samples of each image and standard deviation, >= 1.
        sigmas: standard deviations, in [0,1] pixels.
        on_sigma: called with the standard deviations that are done and how many there are.
        denoiser: to measure, too; it is told each standard deviation, if it can be.

    Raises:
        EndpointError: an endpoint does not answer, or not what a classifier must.
        QueryBudgetError: an endpoint's budget is spent.
    """
    noisy = _NoisyImages(config, images, split, draws, classifier.class_count)
    rounds = len(sigmas) * (1 if denoiser is None else 2)

    def done(count: int) -> None:
        if on_sigma is not None:
            on_sigma(count, rounds)

    accuracy: dict[str, float] = {}
    for count, sigma in enumerate(sigmas):
        done(count)
        accuracy[f"{sigma:g}"] = noisy.accuracy(classifier, sigma)
    rate, task = noisy.samples_per_second, noisy.task
    before = None
    if denoiser is not None:
        noisy = _NoisyImages(config, images, split, draws, classifier.class_count)
        network = copied(denoiser.network)
        mirrored = config.denoiser.mirrored
        protected = DenoisedClassifier(network, classifier, mirrored=mirrored)
        quality, behind = {}, {}
        for count, sigma in enumerate(sigmas):
            done(len(sigmas) + count)
            told_sigma(network, sigma)
            quality[f"{sigma:g}"] = noisy.psnr(network, sigma)
            behind[f"{sigma:g}"] = noisy.accuracy(protected, sigma)
        before = DenoiserInspection(
            source=denoiser.given.source,
            network=type(bare(network)).__name__,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            takes_sigma=getattr(network, "takes_sigma", isinstance(network, SigmaConditional)),
            sigma_range=denoiser.given.made_for,
            pretrained_on=denoiser.settings.pretrained_on,
            psnr=quality,
            noisy_accuracy=behind,
            samples_per_second=noisy.samples_per_second,
        )
    predicted = predicted_classes(classifier, images.images, torch.device("cpu"))
    return Inspection(
        source=settings.source,
        **classifier.understood(images.images),
        classes=classifier.class_count,
        images=len(images),
        split=split,
        draws=draws,
        clean_accuracy=(predicted == images.labels).double().mean().item(),
        noisy_accuracy=accuracy,
        samples_per_second=rate,
        device=resolve_device(config.execution.device).type,
        precision=task.precision,
        layout=task.layout,
        trained_through=_trained_through(classifier, config, images),
        other_input=_better_input(classifier, images),
        denoiser=before,
    )


def _trained_through(
    classifier: AnyClassifier, config: TrialConfig, images: LabelledImages
) -> bool | None:
    """Tell whether gradients reach the images of a classifier that works without them."""
    if not isinstance(classifier, Classifier):
        return None
    shape = tuple(images.images.shape[1:])
    try:
        with warnings.catch_warnings():
            # What it needs was said when it was certified.
            warnings.simplefilter("ignore")
            fitting_execution(config.execution, copied(classifier), shape, trained_through=True)
    except InputError:
        return False
    return True


# Common ways to take pixels of [0,1]: mean and standard deviation that are taken off first.
_INPUTS = {
    "[0,1]": (0.0, 1.0),
    "[-1,1]": (0.5, 0.5),
    "0 to 255": (0.0, 1 / 255),
}


def _better_input(classifier: AnyClassifier, images: LabelledImages) -> str | None:
    """Return in which range a network surely classifies more images rightly than as it is set."""
    if not isinstance(classifier, Classifier):
        return None
    some = images.subset(torch.arange(len(images)) < _AT_ONCE)

    def right(tried: Classifier) -> int:
        predicted = predicted_classes(tried, some.images, torch.device("cpu"))
        return int((predicted == some.labels).sum())

    _, most = exact_interval(right(classifier), len(some))
    found: dict[str, int] = {}
    for name, (mean, std) in _INPUTS.items():
        other = copied(classifier)
        other.mean.fill_(mean)
        other.std.fill_(std)
        found[name] = right(other)
    best = max(found, key=lambda name: found[name])
    least, _ = exact_interval(found[best], len(some))
    if least <= most:
        return None
    mean, std = _INPUTS[best]
    share = 100 * found[best] / len(some)
    each = [",".join([f"{value:.6g}"] * classifier.channels) for value in (mean, std)]
    return (
        f"pixels of {best}: {share:.0f} % of {len(some)} images are right with "
        f"classifier.mean=[{each[0]}] and classifier.std=[{each[1]}]"
    )


class _NoisyImages:
    """Images under noise, as certification samples it.

    Attributes:
        task: that was sampled last.
    """

    task: SamplingTask

    def __init__(
        self, config: TrialConfig, images: LabelledImages, split: str, draws: int, class_count: int
    ) -> None:
        self._config, self._images, self._draws = config, images, draws
        self._split: Split = "test" if split == "test" else "held_out"
        self._class_count = class_count
        self._seconds, self._sampled = 0.0, 0

    @property
    def samples_per_second(self) -> float:
        """Samples of all networks so far."""
        return self._sampled / self._seconds

    def accuracy(self, network: nn.Module, sigma: float) -> float:
        """Return the share of samples that a network classifies rightly."""
        # Numbered anew, as certification numbers those of a split.
        images, draws = replace(self._images, indices=torch.arange(len(self._images))), self._draws
        certified = CertificationTask(network, images, self._split, self._class_count)
        config = _in_chunks_of(draws, with_batch_size(self._config, certified))
        self.task = sampling_task(config.model_copy(update={"sigma": sigma}), certified)
        collector = CountCollector.of(self.task, local_sampler(config, self.task))
        started = time.perf_counter()
        counts = class_counts(collector, draws)
        self._seconds += time.perf_counter() - started
        self._sampled += draws * len(images)
        right = counts[range(len(images)), images.labels.tolist()].sum()
        return float(right) / (draws * len(images))

    @torch.no_grad()
    def psnr(self, denoiser: nn.Module, sigma: float) -> tuple[float, float]:
        """Return the PSNR of noisy images and of denoised ones, in dB."""
        generator = torch_generator(self._config.seed, "inspection of a denoiser")
        found: list[Tensor] = []
        for part in as_pixels(self._images.images).split(_AT_ONCE):
            noisy = part + sigma * torch.randn(part.shape, generator=generator)
            both = [psnr(noisy, part), psnr(denoiser(noisy), part)]
            found.append(len(part) * torch.tensor(both))
        before, after = (torch.stack(found).sum(dim=0) / len(self._images)).tolist()
        return before, after


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
