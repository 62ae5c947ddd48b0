"""What a sweep would do, and roughly how long it would take."""

import time
from dataclasses import dataclass

import torch
from torch import nn

from decrop.certification import most_estimation_samples, with_batch_size
from decrop.classifiers.load import untrained_classifier
from decrop.config import TrialConfig
from decrop.data.datasets import Dataset, load_dataset
from decrop.data.limited import limited_data, take
from decrop.networks.registry import build_denoiser
from decrop.smoothing.execution import resolve_device, resolve_precision
from decrop.smoothing.sampling import ESTIMATION, CountRequest, LocalSampler, SamplingTask
from tune.cluster import Claims, ClusterSize
from tune.space import reference_config, total_trials
from tune.sweep_file import SweepConfig

# The three views of a training image, each forward and backward, backward twice as dear.
_PASSES_OF_A_TRAINING_IMAGE = 3 * 3
_PROBE_SECONDS = 1.0


@dataclass(frozen=True)
class Plan:
    """The size of a sweep, if no trial is pruned.

    Attributes:
        trials: with trial 0.
        at_once: trials that run at the same time.
        finals: trainings on the whole limited data.
        training_images: that go through the denoiser while training, three views counted once.
        noisy_samples: drawn for certificates, in all; at most, where images stop early.
        hours: rough, from a second's probe of trial 0's denoiser on this machine.
    """

    trials: int
    at_once: int
    finals: int
    training_images: int
    noisy_samples: int
    hours: float


def plan_sweep(sweep: SweepConfig, claims: Claims, size: ClusterSize) -> Plan:
    """Count the work of a sweep and time a small part of it."""
    config = reference_config(sweep)
    dataset = load_dataset(config.dataset)
    limited = limited_data(dataset, config.limited)
    held_out = int(limited.held_out_mask.sum())
    trained_on = len(limited.all) - held_out
    certification, training = config.certification, config.training
    test_images = min(certification.test_images, len(dataset.test.labels))
    trials = total_trials(sweep)
    finals = min(sweep.leaderboard.top + 1, trials)
    epochs = sum(training.phase_epochs)
    scores = (training.evaluations - 1) * certification.pruning_samples
    scores += certification.held_out_samples
    selection = certification.selection_samples
    noisy_samples = trials * held_out * (scores + training.evaluations * selection) + (
        finals + 1
    ) * test_images * (most_estimation_samples(certification) + selection)
    training_images = epochs * (trials * trained_on + finals * len(limited.all))
    at_once = _at_once(claims, size, trials)
    passes = noisy_samples + _PASSES_OF_A_TRAINING_IMAGE * training_images
    # The probe uses the whole machine, which the trials share.
    return Plan(
        trials=trials,
        at_once=at_once,
        finals=finals,
        training_images=training_images,
        noisy_samples=noisy_samples,
        hours=passes / _samples_a_second(config, dataset) / 3600,
    )


def _at_once(claims: Claims, size: ClusterSize, trials: int) -> int:
    claim = claims.trial
    fits = int(size.cpu / claim.cpu + 1e-9)
    if claim.gpu > 0:
        fits = min(fits, int(size.gpu / claim.gpu + 1e-9))
    return max(1, min(fits, claims.max_concurrent or fits, trials))


def _samples_a_second(config: TrialConfig, dataset: Dataset) -> float:
    device = resolve_device(config.execution.device)
    network = nn.Sequential(
        build_denoiser(config.denoiser, image_channels=dataset.channels),
        untrained_classifier(config.classifier, dataset),
    )
    image = take(dataset.test, torch.zeros(1, dtype=torch.int64))
    execution = with_batch_size(config, network, image, class_count=dataset.class_count).execution
    chunks_per_batch = int(execution.chunks_per_batch)
    task = SamplingTask(
        network=network,
        images=image.images,
        image_ids=image.indices,
        class_count=dataset.class_count,
        sigma=config.sigma,
        seed=0,
        chunk_size=execution.chunk_size,
        chunks_per_batch=chunks_per_batch,
        precision=resolve_precision(execution.precision, device),
    )
    sampler = LocalSampler(task, device)
    batch = [
        CountRequest(0, ESTIMATION, chunk, execution.chunk_size)
        for chunk in range(chunks_per_batch * max(1, torch.get_num_threads()))
    ]
    sampler.class_counts(batch)
    started, drawn = time.monotonic(), 0
    while time.monotonic() - started < _PROBE_SECONDS:
        sampler.class_counts(batch)
        drawn += len(batch) * execution.chunk_size
    return drawn / (time.monotonic() - started)
