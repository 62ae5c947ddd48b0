"""Certificates of images under a trial's settings."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from decrop.black_box import EndpointClassifier
from decrop.black_box.sampler import AskingSampler, QueryPlan, endpoint_of
from decrop.config import CertificationSettings, TrialConfig
from decrop.config.certification import CERTIFICATES
from decrop.data.limited import LabelledImages
from decrop.evaluation.record import CertificationRecord
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json, write_json
from decrop.rejection.network import RejectingNetwork, check_certificate
from decrop.seeds import derive_seed
from decrop.smoothing.certificates import Integers
from decrop.smoothing.certify import (
    CertificateRule,
    CertificationOutcome,
    certify_adaptive,
    certify_anytime,
    certify_fixed,
    radius_grid,
)
from decrop.smoothing.collect import OnProgress
from decrop.smoothing.execution import (
    Precision,
    resolve_device,
    resolve_layout,
    resolve_precision,
)
from decrop.smoothing.journal import JournalStart, RecordedSampler
from decrop.smoothing.prepare import fitting_execution
from decrop.smoothing.probe import probe_chunks_per_batch
from decrop.smoothing.sampling import (
    ESTIMATION,
    CountRequest,
    LocalSampler,
    Sampler,
    SamplingTask,
)
from decrop.smoothing.worth import worth_of_radii
from decrop.trial.result import Split

MakeSampler = Callable[[SamplingTask], Sampler]

# Worth of a radius that only fills the grid, in that of a radius whose accuracy is asked for.
_WORTH_BETWEEN = 0.1
# At least so many forward passes, and for so long, of which the fastest is reported: the others had
# to wait for other processes.
_TIMED_BATCHES = 3
_TIMED_SECONDS = 0.3


def local_sampler(config: TrialConfig) -> MakeSampler:
    """Return the maker of samplers that draw in this process, on the configured device."""
    device = resolve_device(config.execution.device)

    def sampler(task: SamplingTask) -> Sampler:
        if endpoint_of(task.network) is not None:
            return AskingSampler(task, device)
        return LocalSampler(task, device)

    return sampler


def with_fitting_execution(
    config: TrialConfig,
    network: nn.Module,
    image_shape: tuple[int, ...],
    *,
    trained_through: bool = False,
) -> TrialConfig:
    """Return the settings with the precision and layout that a network needs (`prepare`).

    Of an endpoint nothing is tried out; where nothing but one is asked, precision auto is fp32.

    Raises:
        InputError: the network works in none that the settings allow.
    """
    execution = config.execution
    if endpoint_of(network) is None:
        execution = fitting_execution(
            execution, network, image_shape, trained_through=trained_through
        )
    elif isinstance(network, EndpointClassifier) and execution.precision == "auto":
        execution = execution.model_copy(update={"precision": "fp32"})
    return config.model_copy(update={"execution": execution})


def with_batch_size(
    config: TrialConfig, network: nn.Module, images: LabelledImages, *, class_count: int
) -> TrialConfig:
    """Return the settings with a number in place of `auto` for chunks_per_batch.

    Precision and memory layout are those that fit the network (`with_fitting_execution`). With an
    endpoint nothing is tried out, for that would be asked of it: a batch is as large as a request.

    Raises:
        InputError: not even a batch of one chunk fits into the device's memory, or the network does
            not work as it would be used.
    """
    config = with_fitting_execution(config, network, tuple(images.images.shape[1:]))
    execution = config.execution
    if execution.chunks_per_batch != "auto":
        return config
    if (endpoint := endpoint_of(network)) is not None:
        batch_size = endpoint.client.settings.batch_size
        return _with_chunks_per_batch(config, max(1, batch_size // execution.chunk_size))
    task = sampling_task(
        _with_chunks_per_batch(config, 1),
        network,
        images.images,
        images.indices,
        split="test",
        class_count=class_count,
    )
    chunks = probe_chunks_per_batch(task, resolve_device(execution.device))
    return _with_chunks_per_batch(config, chunks)


def with_recorded_batch_size(
    config: TrialConfig, network: nn.Module, images: LabelledImages, *, class_count: int, path: Path
) -> TrialConfig:
    """Return the settings with the batch size for `auto` that `path` records, after the first time.

    A certification that goes on must not find another one, for its counts could differ.
    """
    config = with_fitting_execution(config, network, tuple(images.images.shape[1:]))
    if config.execution.chunks_per_batch != "auto":
        return config
    if not path.exists():
        found = with_batch_size(config, network, images, class_count=class_count)
        write_json(path, {"chunks_per_batch": found.execution.chunks_per_batch})
    return _with_chunks_per_batch(config, read_json(path)["chunks_per_batch"])


def last_estimation_samples(settings: CertificationSettings, split: Split) -> int:
    """Return N of a split's certificates once trained, or the most of them."""
    return settings.most_estimation_samples if split == "test" else settings.held_out_samples


def sampling_task(
    config: TrialConfig,
    network: nn.Module,
    images: Tensor,
    image_ids: Tensor,
    *,
    split: Split,
    class_count: int,
) -> SamplingTask:
    """Describe to samplers what a trial certifies, and with which noise.

    Args:
        config: the trial's settings; chunks_per_batch is a number (`with_batch_size`).
        network: noisy images [B, C, H, W] to logits [B, K]; or a `RejectingNetwork`, whose
            rejections the task counts as one more class.
        images: uint8, or float32 in [0,1], [B, C, H, W].
        image_ids: int64 [B], their positions in the split.
        split: they are from.
        class_count: K, without that of rejections.

    Raises:
        InputError: the network may reject draws and the certificate is not `rejection`, or the
            other way round.
    """
    rejecting = isinstance(network, RejectingNetwork)
    check_certificate(config.certification.certificate, rejecting=rejecting)
    if config.execution.chunks_per_batch == "auto":
        raise ValueError("chunks_per_batch is auto; with_batch_size puts a number in its place")
    return SamplingTask(
        network=network,
        images=images,
        image_ids=image_ids,
        class_count=class_count + rejecting,
        sigma=config.sigma,
        seed=derive_seed(config.seed, "certification", split),
        chunk_size=config.execution.chunk_size,
        chunks_per_batch=config.execution.chunks_per_batch,
        precision=precision_of(config),
        noise=config.certification.noise,
        layout=resolve_layout(config.execution.layout),
    )


def certificate_table(
    config: TrialConfig,
    network: nn.Module,
    images: LabelledImages,
    *,
    split: Split,
    class_count: int,
    estimation_samples: int,
    make_sampler: MakeSampler,
    journal: Path | None = None,
    on_certified: OnProgress | None = None,
    on_queries: Callable[[QueryPlan], None] | None = None,
    on_journal: Callable[[JournalStart], None] | None = None,
) -> CertificateTable:
    """Certify images by the configured procedure, one row each.

    The noise depends on the trial's seed, the split, the image's position in it and the draw alone,
    so equal settings give equal certificates and different denoisers see the same noise.

    Args:
        config: the trial's settings; chunks_per_batch is a number (`with_batch_size`).
        network: noisy images [B, C, H, W] to logits [B, K].
        images: to certify.
        split: they are from.
        class_count: K.
        estimation_samples: N, or the most of them where images stop early.
        make_sampler: who draws class counts.
        journal: file that keeps counts while they are drawn, so that a killed certification goes
            on from it; deleted by the caller once the table is safe.
        on_certified: called with the progress.
        on_queries: called with what may be asked of an endpoint, before it is.
        on_journal: called with how the journal was found.

    Raises:
        InputError: an endpoint's budget cannot suffice for the fixed procedure.
        EndpointError: an endpoint does not answer, or not what a classifier must.
        QueryBudgetError: an endpoint's budget is spent.
    """
    task = sampling_task(
        config, network, images.images, images.indices, split=split, class_count=class_count
    )
    sampler = make_sampler(task)
    labels = images.labels.numpy()

    def check(answered: int) -> None:
        plan = query_plan(config, network, len(images), estimation_samples, answered=answered)
        if plan is not None:
            if on_queries is not None:
                on_queries(plan)
            plan.check()

    if journal is None:
        check(0)
        outcome = certify_task(config, task, sampler, labels, estimation_samples, on_certified)
    else:
        device = resolve_device(config.execution.device)
        with RecordedSampler(sampler, journal, task, device) as recorded:
            if on_journal is not None:
                on_journal(recorded.start)
            check(recorded.draws)
            outcome = certify_task(config, task, recorded, labels, estimation_samples, on_certified)
    return CertificateTable(
        idx=images.indices.numpy(),
        label=images.labels.numpy(),
        predict=outcome.prediction,
        radius=outcome.radius,
        seconds=outcome.seconds,
        samples=outcome.samples,
        ending=outcome.ending,
        # Without the counts of rejections and of logits that are not finite.
        selected=outcome.selection_counts[:, :class_count].argmax(axis=1),
        record=CertificationRecord.of(
            config, network, images, split=split, estimation_samples=estimation_samples
        ),
    )


def query_plan(
    config: TrialConfig,
    network: nn.Module,
    images: int,
    estimation_samples: int,
    *,
    answered: int = 0,
) -> QueryPlan | None:
    """Return what a certification may ask of an endpoint, None if there is none.

    Args:
        config: the trial's settings.
        network: that is certified.
        images: how many are.
        estimation_samples: N of each, or the most of them where images stop early.
        answered: draws whose classes are known already.
    """
    endpoint = endpoint_of(network)
    if endpoint is None:
        return None
    settings = config.certification
    draws = images * (settings.selection_samples + estimation_samples)
    return QueryPlan(
        url=endpoint.url,
        most=max(0, draws - answered),
        kept=answered,
        left=endpoint.client.ledger.left(),
        exact=settings.procedure != "adaptive",
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
        config: the trial's settings.
        task: of `sampling_task`.
        sampler: counts classes of the task.
        labels: int64 [B], true classes; None where they are not known.
        estimation_samples: N, or the most of them where images stop early.
        on_certified: called with the progress.
    """
    settings = config.certification
    if settings.procedure == "fixed":
        return certify_fixed(
            sampler,
            len(task.images),
            certificate_rule(settings, config.sigma),
            class_count=task.class_count,
            selection_samples=settings.selection_samples,
            estimation_samples=estimation_samples,
            chunk_size=task.chunk_size,
            on_progress=on_certified,
        )
    if settings.procedure == "anytime":
        return certify_anytime(
            sampler,
            len(task.images),
            class_count=task.class_count,
            sigma=config.sigma,
            selection_samples=settings.selection_samples,
            max_samples=settings.selection_samples + estimation_samples,
            failure_probability=settings.failure_probability,
            chunk_size=task.chunk_size,
            on_progress=on_certified,
        )
    radii = radius_grid(
        settings.radii,
        settings.radius_step,
        sigma=config.sigma,
        draws=estimation_samples,
        failure_probability=settings.failure_probability,
    )
    return certify_adaptive(
        sampler,
        len(task.images),
        labels=labels,
        class_count=task.class_count,
        sigma=config.sigma,
        radii=radii,
        worth=worth_of_radii(radii, config.sigma)
        * np.where(np.isin(radii, settings.radii), 1.0, _WORTH_BETWEEN),
        selection_samples=settings.selection_samples,
        max_samples=settings.selection_samples + estimation_samples,
        failure_probability=settings.failure_probability,
        chunk_size=task.chunk_size,
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
    return resolve_precision(config.execution.precision, device)


def clean_accuracy(network: nn.Module, images: LabelledImages, device: torch.device) -> float:
    """Return the accuracy of a network on images without noise."""
    network = network.to(device).eval()
    with torch.inference_mode():
        predictions = torch.cat(
            [
                network(batch.to(device).float() / 255).argmax(1).cpu()
                for batch in images.images.split(500)
            ]
        )
    return (predictions == images.labels).float().mean().item()


def noisy_image_seconds(
    config: TrialConfig, network: nn.Module, images: LabelledImages, *, class_count: int
) -> float:
    """Return how long the certified function takes for an image with noise, in seconds.

    Measured in one batch as certification runs it: noise, forward pass and prediction; on a CPU one
    thread computes it. The fastest of several batches, after one that is not timed.

    Args:
        config: the trial's settings; chunks_per_batch is a number (`with_batch_size`).
        network: noisy images [B, C, H, W] to logits [B, K].
        images: of which the first is drawn.
        class_count: K.
    """
    execution = config.execution
    chunks = int(execution.chunks_per_batch)
    task = sampling_task(
        config,
        network,
        images.images,
        images.indices,
        split="test",
        class_count=class_count,
    )
    sampler = LocalSampler(task, resolve_device(execution.device))
    batch = [CountRequest(0, ESTIMATION, chunk, execution.chunk_size) for chunk in range(chunks)]
    sampler.class_counts(batch)
    durations: list[float] = []
    while len(durations) < _TIMED_BATCHES or sum(durations) < _TIMED_SECONDS:
        started = time.perf_counter()
        # The counts lie on the CPU, so the device is done with them.
        sampler.class_counts(batch)
        durations.append(time.perf_counter() - started)
    return min(durations) / (chunks * execution.chunk_size)


def _with_chunks_per_batch(config: TrialConfig, chunks_per_batch: int) -> TrialConfig:
    execution = config.execution.model_copy(update={"chunks_per_batch": chunks_per_batch})
    return config.model_copy(update={"execution": execution})
