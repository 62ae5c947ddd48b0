"""Certificates of images under a trial's settings."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from decrop.classifiers.predictions import accuracy
from decrop.config import CertificationSettings, TrialConfig
from decrop.config.certification import CERTIFICATES
from decrop.data.limited import LabelledImages
from decrop.evaluation.record import CertificationRecord
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json, write_json
from decrop.networks.conditional import told_sigma
from decrop.rejection.network import RejectingNetwork, check_certificate
from decrop.seeds import derive_seed
from decrop.smoothing.backend import backend_of
from decrop.smoothing.certificates import Integers
from decrop.smoothing.collect import CountCollector, OnProgress
from decrop.smoothing.execution import (
    Precision,
    resolve_certified_precision,
    resolve_device,
    resolve_layout,
)
from decrop.smoothing.journal import RecordedSampler
from decrop.smoothing.procedures import (
    CertificateRule,
    CertificationOutcome,
    certify_adaptive,
    certify_anytime,
    certify_fixed,
    radius_grid,
)
from decrop.smoothing.sampling import LocalSampler, Sampler, SamplingTask, full_batches
from decrop.smoothing.worth import GIVEN_UP
from decrop.training.hooks import NO_HOOKS, Hooks
from decrop.trial.result import NOISY_IMAGE, Scores, Split, TrialResult

# Share of images whose certificate may be given up at a radius that only fills the grid.
_GIVEN_UP_BETWEEN = 0.02
# At least so many forward passes, and for so long, of which the fastest is reported: the others had
# to wait for other processes.
_TIMED_BATCHES = 3
_TIMED_SECONDS = 0.3


@dataclass(frozen=True)
class CertificationTask:
    """A function and the images that it is certified on.

    Attributes:
        network: noisy images [B, C, H, W] to logits [B, K]; or a `RejectingNetwork`, whose
            rejections are counted as one more class.
        images: uint8, or float32 in [0,1], with their positions in the split, which name the noise.
        class_count: K, without that of rejections.
    """

    network: nn.Module
    images: LabelledImages
    split: Split
    class_count: int


@dataclass(frozen=True)
class Certification:
    """Certificates of a task.

    Attributes:
        config: the trial's settings, as they were computed with.
        table: one row an image.
    """

    config: TrialConfig
    task: CertificationTask
    table: CertificateTable
    scores: Scores
    seconds: float


def local_sampler(config: TrialConfig, task: SamplingTask) -> Sampler:
    """Return a sampler of a task without helpers, on the configured device."""
    return backend_of(task.network).sampler(task, resolve_device(config.execution.device))


def with_fitting_execution(
    config: TrialConfig,
    network: nn.Module,
    image_shape: tuple[int, ...],
    *,
    trained_through: bool = False,
) -> TrialConfig:
    """Return the settings with the precision and layout that a network needs (`prepare`)."""
    execution = backend_of(network).fitting(
        config.execution, network, image_shape, trained_through=trained_through
    )
    return config.model_copy(update={"execution": execution})


def with_batch_size(config: TrialConfig, task: CertificationTask) -> TrialConfig:
    """Return the settings with a number in place of `auto` for chunks_per_batch.

    Precision and memory layout are those that fit the network (`with_fitting_execution`).
    """
    config = _with_fitting_execution(config, task)
    execution = config.execution
    if execution.chunks_per_batch != "auto":
        return config
    sampled = sampling_task(with_chunks_per_batch(config, 1), task)
    device = resolve_device(execution.device)
    chunks = backend_of(task.network).chunks_per_batch(sampled, device)
    return with_chunks_per_batch(config, chunks)


def with_recorded_batch_size(
    config: TrialConfig, task: CertificationTask, path: Path
) -> TrialConfig:
    """Return the settings with the batch size for `auto` that `path` records, after the first time.

    A certification that goes on must not find another one, for its counts could differ.
    """
    config = _with_fitting_execution(config, task)
    if config.execution.chunks_per_batch != "auto":
        return config
    if not path.exists():
        found = with_batch_size(config, task)
        write_json(path, {"chunks_per_batch": found.execution.chunks_per_batch})
    return with_chunks_per_batch(config, read_json(path)["chunks_per_batch"])


def last_estimation_samples(settings: CertificationSettings, split: Split) -> int:
    """Return N of a split's certificates once trained, or the most of them."""
    return settings.most_estimation_samples if split == "test" else settings.held_out_samples


def sampling_task(config: TrialConfig, task: CertificationTask) -> SamplingTask:
    """Describe to samplers what a trial certifies, and with which noise.

    Denoisers in the network that can be told the noise are told it. Random bits do not depend on
    sigma, so an image sees the same noise, larger or smaller, at all of several.

    Args:
        config: the trial's settings; chunks_per_batch is a number (`with_batch_size`).
    """
    rejecting = isinstance(task.network, RejectingNetwork)
    check_certificate(config.certification.certificate, rejecting=rejecting)
    if config.execution.chunks_per_batch == "auto":
        raise ValueError("chunks_per_batch is auto; with_batch_size puts a number in its place")
    return SamplingTask(
        network=told_sigma(task.network, config.sigma),
        images=task.images.images,
        image_ids=task.images.indices,
        class_count=task.class_count + rejecting,
        sigma=config.sigma,
        seed=derive_seed(config.seed, "certification", task.split),
        chunk_size=config.execution.chunk_size,
        chunks_per_batch=config.execution.chunks_per_batch,
        precision=precision_of(config),
        noise=config.certification.noise,
        layout=resolve_layout(config.execution.layout),
    )


def certify(
    config: TrialConfig,
    task: CertificationTask,
    *,
    estimation_samples: int,
    journal: Path | None = None,
    hooks: Hooks = NO_HOOKS,
) -> Certification:
    """Certify images by the configured procedure, one row each, and sum them up.

    The noise depends on the trial's seed, the split, the image's position in it and the sample
    alone, so equal settings give equal certificates and different denoisers see the same noise.

    Args:
        config: the trial's settings; chunks_per_batch is a number (`with_batch_size`).
        estimation_samples: N, or the most of them where images stop early.
        journal: file that keeps counts while they are sampled, so that a killed certification goes
            on from it; deleted by the caller once the table is safe.

    Raises:
        EndpointError: an endpoint does not answer, or not what a classifier must.
        QueryBudgetError: an endpoint's budget is spent.
        TrialStoppedError: the hooks said so.
    """
    started = time.monotonic()
    outcome = certification_outcome(
        config,
        task,
        task.images.labels.numpy(),
        estimation_samples=estimation_samples,
        journal=journal,
        hooks=hooks,
    )
    record = CertificationRecord.of(
        config, task.network, task.images, split=task.split, estimation_samples=estimation_samples
    )
    table = replace(outcome_table(task, outcome), record=record)
    return Certification(
        config=config,
        task=task,
        table=table,
        scores=Scores.of(table, config.certification.radii),
        seconds=time.monotonic() - started,
    )


def outcome_table(task: CertificationTask, outcome: CertificationOutcome) -> CertificateTable:
    """Return the table of an outcome, without a record."""
    return CertificateTable(
        idx=task.images.indices.numpy(),
        label=task.images.labels.numpy(),
        predict=outcome.prediction,
        radius=outcome.radius,
        seconds=outcome.seconds,
        samples=outcome.samples,
        ending=outcome.ending,
        # Without the counts of rejections and of logits that are not finite.
        selected=outcome.selection_counts[:, : task.class_count].argmax(axis=1),
    )


def certification_outcome(
    config: TrialConfig,
    task: CertificationTask,
    labels: Integers,
    *,
    estimation_samples: int,
    journal: Path | None = None,
    hooks: Hooks = NO_HOOKS,
) -> CertificationOutcome:
    """Certify images by the configured procedure.

    Arguments and errors as of `certify`, and labels, int64 [B], which decide how much the adaptive
    procedure samples.
    """
    images, sampled = task.images, sampling_task(config, task)
    backend, device = backend_of(task.network), resolve_device(config.execution.device)
    sampler = backend.sampler(sampled, device, hooks.make_sampler)
    settings = config.certification

    def outcome_of(
        sampler: Sampler, on_certified: OnProgress, answered: int = 0
    ) -> CertificationOutcome:
        backend.announce(
            len(images) * (settings.selection_samples + estimation_samples),
            answered=answered,
            exact=settings.procedure != "adaptive",
            say=hooks.say,
        )
        return certify_task(config, sampled, sampler, labels, estimation_samples, on_certified)

    if journal is None:
        return outcome_of(sampler, hooks.certified)
    with RecordedSampler(sampler, journal, sampled, device) as recorded:
        if recorded.start.others or recorded.start.samples:
            hooks.say(str(recorded.start))
        return outcome_of(
            recorded,
            lambda progress: hooks.certified(replace(progress, restored=recorded.restored)),
            recorded.samples,
        )


def trial_result(
    certification: Certification,
    *,
    hashes: Mapping[str, str],
    seconds: Mapping[str, float],
    flip_rate: float | None = None,
    agreement: float | None = None,
    classified: nn.Module | None = None,
    timed: bool = False,
) -> TrialResult:
    """Sum up a certification; on test images the certified function is timed, too.

    Args:
        hashes: content of what the certified function was made from, by role.
        seconds: by stage before the certification.
        classified: whose accuracy without noise is told; the certified function if None.
        timed: whether the certified function is timed on other images, too.
    """
    config, task = certification.config, certification.task
    device = resolve_device(config.execution.device)
    channels, height, width = task.images.images.shape[1:]
    taken = {**seconds, "certification": certification.seconds}
    if (timed or task.split == "test") and not backend_of(task.network).costs:
        taken[NOISY_IMAGE] = noisy_image_seconds(config, task)
    return TrialResult(
        split=task.split,
        scores=certification.scores,
        clean_accuracy=accuracy(classified or task.network, task.images, device),
        flip_rate=flip_rate,
        precision=precision_of(config),
        device=device.type,
        chunks_per_batch=int(config.execution.chunks_per_batch),
        hashes={**hashes, "certified_images": task.images.content_hash()},
        seconds={
            name: round(value, 9 if name == NOISY_IMAGE else 3) for name, value in taken.items()
        },
        image_shape=(channels, height, width),
        agreement=agreement,
        layout=resolve_layout(config.execution.layout),
    )


def certify_task(
    config: TrialConfig,
    task: SamplingTask,
    sampler: Sampler,
    labels: Integers | None,
    estimation_samples: int,
    on_certified: OnProgress | None = None,
) -> CertificationOutcome:
    """Certify the images of a task by the configured procedure.

    Args:
        labels: int64 [B], true classes; None where they are not known.
        estimation_samples: N, or the most of them where images stop early.
    """
    settings, collector = config.certification, CountCollector.of(task, sampler)
    if settings.procedure == "fixed":
        return certify_fixed(
            collector,
            certificate_rule(settings, config.sigma),
            selection_samples=settings.selection_samples,
            estimation_samples=estimation_samples,
            on_progress=on_certified,
        )
    if settings.procedure == "anytime":
        return certify_anytime(
            collector,
            sigma=config.sigma,
            selection_samples=settings.selection_samples,
            max_samples=settings.selection_samples + estimation_samples,
            failure_probability=settings.failure_probability,
            on_progress=on_certified,
        )
    radii = radius_grid(
        settings.radii,
        settings.radius_step,
        sigma=config.sigma,
        samples=estimation_samples,
        failure_probability=settings.failure_probability,
    )
    return certify_adaptive(
        collector,
        labels=labels,
        sigma=config.sigma,
        radii=radii,
        given_up=np.where(np.isin(radii, settings.radii), GIVEN_UP, _GIVEN_UP_BETWEEN),
        selection_samples=settings.selection_samples,
        max_samples=settings.selection_samples + estimation_samples,
        failure_probability=settings.failure_probability,
        on_progress=on_certified,
    )


def certificate_rule(settings: CertificationSettings, sigma: float) -> CertificateRule:
    """Return what turns the counts of the fixed procedure into certificates."""
    return partial(
        CERTIFICATES[settings.certificate].resolved(),
        sigma=sigma,
        failure_probability=settings.failure_probability,
    )


def precision_of(config: TrialConfig) -> Precision:
    """Return the precision in which this machine certifies under `config`."""
    device = resolve_device(config.execution.device)
    return resolve_certified_precision(config.execution.precision, device)


def noisy_image_seconds(config: TrialConfig, task: CertificationTask) -> float:
    """Return how long the certified function takes for an image with noise, in seconds.

    Measured in one batch as certification runs it: noise, forward pass and prediction. The fastest
    of several batches, after one that is not timed. On a CPU one thread computes it, and the time
    is that in which this process computed, so that what else runs on the machine does not count; on
    a GPU it is the time until the result is there, whoever else the GPU computes for.

    Args:
        config: the trial's settings; chunks_per_batch is a number (`with_batch_size`).
        task: of whose images the first is sampled.
    """
    sampled = sampling_task(config, task)
    device = resolve_device(config.execution.device)
    sampler = LocalSampler(sampled, device)
    batch = full_batches(sampled, 1)
    sampler.class_counts(batch)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    durations: list[float] = []
    while len(durations) < _TIMED_BATCHES or sum(durations) < _TIMED_SECONDS:
        started = clock()
        # The counts lie on the CPU, so the device is done with them.
        sampler.class_counts(batch)
        durations.append(clock() - started)
    return min(durations) / (len(batch) * sampled.chunk_size)


def _with_fitting_execution(config: TrialConfig, task: CertificationTask) -> TrialConfig:
    return with_fitting_execution(config, task.network, tuple(task.images.images.shape[1:]))


def with_chunks_per_batch(config: TrialConfig, chunks_per_batch: int) -> TrialConfig:
    """Return the settings with a batch size."""
    execution = config.execution.model_copy(update={"chunks_per_batch": chunks_per_batch})
    return config.model_copy(update={"execution": execution})
