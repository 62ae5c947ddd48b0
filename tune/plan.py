"""What a sweep would do, and roughly how long it would take."""

import time
from dataclasses import dataclass

import torch
from torch import nn

from decrop.certification import most_estimation_samples, with_batch_size
from decrop.config import DenoiserSettings, LimitedDataSettings, TrialConfig
from decrop.data.datasets import Dataset, load_dataset
from decrop.data.limited import limited_data, take
from decrop.inputs import trained_through
from decrop.networks.registry import build_denoiser
from decrop.smoothing.execution import resolve_device, resolve_precision
from decrop.smoothing.sampling import ESTIMATION, CountRequest, LocalSampler, SamplingTask
from tune.cluster import Claims, ClusterSize
from tune.queries import sweep_queries
from tune.space import reference_config, row_trials, total_trials, trial_config_for
from tune.sweep_file import SweepConfig

# Forward and backward, backward twice as dear; of a training image there are three views.
_PASSES_OF_A_VIEW = 3
_VIEWS = 3
_PROBE_SECONDS = 1.0


@dataclass(frozen=True)
class Plan:
    """The size of a sweep, if no trial is pruned.

    Attributes:
        trials: with trial 0.
        at_once: trials that run at the same time.
        finals: trainings on the whole limited data.
        generated_images: that priors are trained on, each prior once.
        training_images: that go through the denoiser while training, three views counted once.
        noisy_samples: drawn for certificates, in all; at most, where images stop early.
        queries: images that a black box is asked about at most; 0 without one.
        hours: rough, from a second's probe of each row's denoiser, or trial 0's, on this machine;
            without the time that a black box takes.
    """

    trials: int
    at_once: int
    finals: int
    generated_images: int
    training_images: int
    noisy_samples: int
    queries: int
    hours: float


def plan_sweep(sweep: SweepConfig, claims: Claims, size: ClusterSize) -> Plan:
    """Count the work of a sweep and time a small part of it."""
    reference = reference_config(sweep)
    dataset = load_dataset(reference.dataset)
    trials = total_trials(sweep)
    configs = [trial_config_for(sweep, trial.parameters) for trial in row_trials(sweep)]
    configs = configs or [reference, *[_any_trial(sweep)] * (trials - 1)]
    finals = min(sweep.leaderboard.top + 1, trials)
    images = {
        settings: _limited_images(dataset, settings)
        for settings in {config.limited for config in configs}
    }
    work = [
        _work(config, dataset, *images[config.limited], final=position < finals)
        for position, config in enumerate(configs)
    ]
    undefended = _test_samples(reference, dataset)
    rates: dict[DenoiserSettings, float] = {}
    for config in [reference, *configs]:
        if config.denoiser not in rates:
            rates[config.denoiser] = _samples_a_second(config, dataset)
    # The probe uses the whole machine, which the trials share.
    seconds = undefended / rates[reference.denoiser] + sum(
        (noisy_samples + _PASSES_OF_A_VIEW * _VIEWS * training_images) / rates[config.denoiser]
        for config, (noisy_samples, training_images) in zip(configs, work, strict=True)
    )
    # Trials share a prior by all that it depends on.
    priors = {
        (config.prior, config.denoiser, config.sigma, config.seed)
        for config in configs
        if config.prior.kind != "none"
    }
    seconds += sum(
        _PASSES_OF_A_VIEW * prior.steps * prior.batch_size / rates[denoiser]
        for prior, denoiser, *_ in priors
    )
    queries = sweep_queries(sweep)
    return Plan(
        trials=trials,
        at_once=_at_once(claims, size, trials),
        finals=finals,
        generated_images=sum(prior.steps * prior.batch_size for prior, *_ in priors),
        training_images=sum(training_images for _, training_images in work),
        noisy_samples=undefended + sum(noisy_samples for noisy_samples, _ in work),
        queries=0 if queries is None else queries.most,
        hours=seconds / 3600,
    )


def _any_trial(sweep: SweepConfig) -> TrialConfig:
    # What is varied has its fixed value, save that a prior that may be there is there.
    return trial_config_for(
        sweep, {"prior.kind": "dead_leaves"} if "prior.kind" in sweep.space else {}
    )


def _work(
    config: TrialConfig, dataset: Dataset, images: int, held_out: int, *, final: bool
) -> tuple[int, int]:
    """Return noisy samples and training images of a trial, with its final training's if it has one.

    Of the limited `images`, `held_out` are not trained on before that.
    """
    certification, training = config.certification, config.training
    # With early stopping the last weights are scored as the others were, and then the best ones.
    while_training = training.evaluations - (0 if training.early_stopping else 1)
    scores = while_training * certification.pruning_samples + certification.held_out_samples
    noisy_samples = held_out * (scores + (while_training + 1) * certification.selection_samples)
    trained_on = images - held_out
    if final:
        noisy_samples += _test_samples(config, dataset)
        trained_on += images
    return noisy_samples, sum(training.phase_epochs) * trained_on


def _limited_images(dataset: Dataset, settings: LimitedDataSettings) -> tuple[int, int]:
    limited = limited_data(dataset, settings)
    return len(limited.all), int(limited.held_out_mask.sum())


def _test_samples(config: TrialConfig, dataset: Dataset) -> int:
    certification = config.certification
    images = min(certification.test_images, len(dataset.test.labels))
    return images * (most_estimation_samples(certification) + certification.selection_samples)


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
        trained_through(config, dataset, limited_data(dataset, config.limited)),
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
