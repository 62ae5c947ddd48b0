"""The size of a sweep: its work, rough time, and questions to a black box."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from decrop.config import DenoiserSettings, TrainingSettings, TrialConfig
from decrop.config.training import OBJECTIVES
from decrop.data.datasets import Dataset
from decrop.data.limited import take
from decrop.denoisers.sources import open_denoiser
from decrop.networks.denoised import DenoisedClassifier
from decrop.smoothing.execution import resolve_device
from decrop.smoothing.sampling import LocalSampler, full_batches
from decrop.training.schedule import steps_an_epoch
from decrop.trial.certify import CertificationTask, sampling_task, with_batch_size
from decrop.trial.inputs import PreparedTrial
from decrop.trial.prepare import Preparation
from decrop.trial.query_budget import TotalQueries, planned_queries
from tune.cluster import Claims, ClusterSize
from tune.space import (
    kind_of,
    reference_config,
    row_trials,
    total_trials,
    trial_config_for,
    varied_paths,
)
from tune.sweep_file import SweepConfig
from tune.worker import shares_inputs

# Settings that decide which images a surrogate is stolen with, or from whom.
_OF_STEALING = ("dataset", "limited", "classifier")


def sweep_queries(
    sweep: SweepConfig, preparation: Preparation | None = None
) -> TotalQueries | None:
    """Plan the questions of a sweep to its black box; None where it has none.

    One surrogate for all trials that ask about the same images, and certifications on the test
    split of the best few, trial 0 and the classifier without a denoiser.

    Args:
        preparation: of its trials, which share data with others that were prepared.
    """
    reference = reference_config(sweep)
    rows = [trial_config_for(sweep, trial.parameters) for trial in row_trials(sweep)]
    trials = rows or [reference] * total_trials(sweep)
    finals = trials[: min(sweep.leaderboard.top + 1, len(trials))]
    preparation = preparation or Preparation()
    certified = _prepared([*finals, reference], preparation)
    if not certified:
        return None
    varied = any(path.split(".")[0] in _OF_STEALING for path in sweep.space)
    loads = 1
    if not shares_inputs(sweep) or "seed" in varied_paths(sweep) or sweep.seeds > 1:
        # Each process opens the endpoint for itself.
        loads += len(trials) + len(finals) + 1
    if varied:
        stolen = [_dearest(sweep, preparation)] * total_trials(sweep)
    else:
        stolen = _prepared(_distinct([reference, *trials]), preparation)
    return planned_queries(certified, stolen, loads=loads)


def finals_queries(configs: Sequence[TrialConfig]) -> TotalQueries | None:
    """Plan the questions of final trainings whose surrogates are stolen already."""
    return planned_queries(_prepared(configs, Preparation()), [], loads=1 + len(configs))


def _prepared(configs: Sequence[TrialConfig], preparation: Preparation) -> list[PreparedTrial]:
    """Prepare the trials that ask a black box, equal ones once."""
    found: list[PreparedTrial] = []
    for config in configs:
        if config.classifier.asked is not None:
            same = next((trial for trial in found if trial.config == config), None)
            found.append(same or preparation.trial(config))
    return found


def _distinct(configs: Sequence[TrialConfig]) -> list[TrialConfig]:
    """Return one of the configs of each surrogate's images."""
    found: dict[object, TrialConfig] = {}
    for config in configs:
        surrogate = config.classifier.surrogate
        if config.classifier.asked is not None and surrogate is not None:
            images = repr((surrogate.of_the_images(), surrogate.weights))
            key = (config.classifier.source, config.dataset, config.limited, images)
            found.setdefault(key, config)
    return list(found.values())


def _dearest(sweep: SweepConfig, preparation: Preparation) -> PreparedTrial:
    """Prepare the settings that ask most, as any of those that are varied may be tried."""
    tried = [reference_config(sweep)]
    for path, domain in sweep.space.items():
        if path.split(".")[0] in _OF_STEALING:
            tried += [trial_config_for(sweep, {path: v}) for v in domain.values_to_check()]
    return max(map(preparation.trial, tried), key=lambda trial: trial.stealing_queries)


# Forward and backward, backward twice as dear.
_PASSES_OF_A_VIEW = 3
# Clean, boundary and interpolated.
_VIEWS = 3
_PROBE_SECONDS = 1.0
_NO_DENOISER = DenoiserSettings(source="none")
# Of training a classifier, least first.
_OBJECTIVES_BY_WORK = ("plain", "gaussian", "adre_reg", "smooth_adv", "adre_adv")


@dataclass(frozen=True)
class Plan:
    """The size of a sweep, if no trial is pruned.

    Attributes:
        trials: with trial 0.
        at_once: trials that run at the same time.
        finals: trainings on the whole limited data.
        generated_images: that priors are trained on, each prior once, and that are in the steps of
            trainings.
        training_images: that go through the denoiser while training, each view, noise draw and
            step of an attack counted.
        classifier_images: that classifiers are trained on, each noise sample and each step of an
            attack counted, at most where those are varied; a classifier that trials share is
            trained once.
        noisy_samples: for certificates, in all; at most, where images stop early.
        queries: images that a black box is asked about at most; 0 without one.
        hours: rough, from a second's probe of each row's networks, or trial 0's, on this machine;
            without the time that a black box takes.
    """

    trials: int
    at_once: int
    finals: int
    generated_images: int
    training_images: int
    classifier_images: int
    noisy_samples: int
    queries: int
    hours: float


def plan_sweep(
    sweep: SweepConfig, claims: Claims, size: ClusterSize, preparation: Preparation | None = None
) -> Plan:
    """Count the work of a sweep and time a small part of it.

    Args:
        preparation: of its trials, which share data with others that were prepared.
    """
    preparation = preparation or Preparation()
    reference = reference_config(sweep)
    dataset = preparation.dataset(reference.dataset)
    trials = total_trials(sweep)
    configs = [trial_config_for(sweep, trial.parameters) for trial in row_trials(sweep)]
    configs = configs or [reference, *[_any_trial(sweep)] * (trials - 1)]
    finals = min(sweep.leaderboard.top + 1, trials)
    images = [_limited_images(preparation, config) for config in configs]
    work = [
        _work(config, dataset, *images[position], final=position < finals)
        for position, config in enumerate(configs)
    ]
    rates = _Rates(preparation)
    certified = kind_of(reference).certifies_undefended
    undefended = _test_samples(reference) if certified else 0
    # The probe uses the whole machine, which the trials share.
    seconds = undefended / rates.of(reference) if undefended else 0.0
    for config, done in zip(configs, work, strict=True):
        views = done.training_images + done.generated_images + done.classifier_images
        seconds += (done.noisy_samples + _PASSES_OF_A_VIEW * views) / rates.of(config)
    given = _given_classifiers(sweep, configs)
    given_images = [
        _classifier_images(config, dataset, *_limited_images(preparation, config))
        for config in given
    ]
    for config, trained_on in zip(given, given_images, strict=True):
        seconds += _PASSES_OF_A_VIEW * trained_on / rates.of(config, denoiser=_NO_DENOISER)
    # Trials share a prior by all that it depends on.
    priors = {
        (config.prior, config.denoiser, config.sigma, config.seed): config
        for config in configs
        if config.pretrains_denoiser
    }
    seconds += sum(
        _PASSES_OF_A_VIEW * config.prior.steps * config.prior.batch_size / rates.of(config)
        for config in priors.values()
    )
    queries = sweep_queries(sweep, preparation)
    return Plan(
        trials=trials,
        at_once=min(trials, claims.trials_at_once(size)),
        finals=finals,
        generated_images=sum(prior.steps * prior.batch_size for prior, *_ in priors)
        + sum(done.generated_images for done in work),
        training_images=sum(done.training_images for done in work),
        classifier_images=sum(given_images) + sum(done.classifier_images for done in work),
        noisy_samples=undefended + sum(done.noisy_samples for done in work),
        queries=0 if queries is None else queries.most,
        hours=seconds / 3600,
    )


def _any_trial(sweep: SweepConfig) -> TrialConfig:
    # What is varied has its fixed value, save that a prior that may be there is there, and that a
    # classifier is trained on as much as it may be.
    parameters: dict[str, Any] = {}
    if "prior.kind" in sweep.space:
        parameters["prior.kind"] = "dead_leaves"
    for name in ("epochs", "noise_samples", "attack_steps"):
        path = f"classifier.training.{name}"
        if path in sweep.space:
            parameters[path] = max(sweep.space[path].values_to_check())
    objectives = sweep.space.get("classifier.training.objective")
    if objectives is not None:
        parameters["classifier.training.objective"] = max(
            objectives.values_to_check(), key=_OBJECTIVES_BY_WORK.index
        )
    return trial_config_for(sweep, parameters)


@dataclass(frozen=True)
class _Work:
    noisy_samples: int
    training_images: int = 0
    generated_images: int = 0
    classifier_images: int = 0


def _work(
    config: TrialConfig, dataset: Dataset, images: int, held_out: int, *, final: bool
) -> _Work:
    """Return the work of a trial, with that of its final training if it has one.

    Of the limited `images`, `held_out` are not trained on before that.
    """
    certification, training = config.certification, config.training
    # With early stopping the last weights are scored as the others were, and then the best ones.
    while_training = training.evaluations - (0 if training.early_stopping else 1)
    scores = while_training * certification.pruning_samples + certification.held_out_samples
    noisy_samples = held_out * (scores + (while_training + 1) * certification.selection_samples)
    if final:
        noisy_samples += _test_samples(config)
    # What each training leaves out of the limited images.
    trainings = [held_out, *([0] if final and config.trains_again_for_test else [])]
    if config.trains == "classifier":
        of_classifiers = [_classifier_images(config, dataset, images, left) for left in trainings]
        return _Work(noisy_samples, classifier_images=sum(of_classifiers))
    epochs, beside = sum(training.phase_epochs), training.prior_images
    trained = [images - left for left in trainings]
    steps = sum(steps_an_epoch(some, training.batch_size) for some in trained)
    return _Work(
        noisy_samples,
        training_images=_passes_of_an_image(training) * training.noise_draws * sum(trained),
        generated_images=epochs * steps * (0 if beside.kind == "none" else beside.count),
    )


def _passes_of_an_image(training: TrainingSettings) -> int:
    """Return how often each noise draw of an image goes through the denoiser, in all its views."""
    squared_error, *others = training.phase_epochs
    views = _VIEWS if OBJECTIVES[training.objective].adapts else 1
    adversarial = training.adversarial
    attacked = adversarial.epsilon > 0 and training.objective != "mse"
    return squared_error + sum(others) * (views + (adversarial.steps if attacked else 0))


def _classifier_images(config: TrialConfig, dataset: Dataset, images: int, held_out: int) -> int:
    """Return what a classifier is trained on, each noise sample and each step of an attack counted.

    Args:
        dataset: of whose training split, or of its limited `images`, they are.
        images: of the limited data.
        held_out: of the limited data, not trained on.
    """
    training = config.classifier.training
    assert training is not None
    trained_on = images if training.trained_on == "limited" else len(dataset.train.labels)
    if training.trained_on != "all":
        trained_on -= held_out
    samples = training.noise_samples if training.noisy else 1
    # An attack goes through the network as training does, forward and backward.
    passes = 1 + (training.attack_steps if training.attacks else 0)
    return training.epochs * trained_on * samples * passes


def _given_classifiers(sweep: SweepConfig, configs: Sequence[TrialConfig]) -> list[TrialConfig]:
    """Return settings for each classifier that is trained for denoisers to stand in front of."""
    trained = [config for config in configs if config.pretrains_classifier]
    # What a space varies is not in the settings that are planned with.
    if sweep.space and not shares_inputs(sweep):
        return trained
    sigmas = {(config.classifier, config.limited, config.sigma): config for config in trained}
    return list(sigmas.values())


def _limited_images(preparation: Preparation, config: TrialConfig) -> tuple[int, int]:
    limited = preparation.limited(config)
    return len(limited.all), int(limited.held_out_mask.sum())


def _test_samples(config: TrialConfig) -> int:
    certification = config.certification
    samples = certification.most_estimation_samples + certification.selection_samples
    return certification.test_images * samples * len(config.certified_sigmas)


class _Rates:
    """Samples a second of networks, each timed once."""

    def __init__(self, preparation: Preparation) -> None:
        self._preparation = preparation
        self._found: dict[tuple[DenoiserSettings, str], float] = {}

    def of(self, config: TrialConfig, denoiser: DenoiserSettings | None = None) -> float:
        """Return the rate of a trial's classifier behind its denoiser, or another one."""
        denoiser = denoiser or config.denoiser
        networks = denoiser, config.classifier.source
        if networks not in self._found:
            trial = self._preparation.trial(config)
            self._found[networks] = _samples_a_second(trial, denoiser)
        return self._found[networks]


def _samples_a_second(trial: PreparedTrial, denoiser: DenoiserSettings) -> float:
    config, dataset = trial.config, trial.dataset
    opened = open_denoiser(denoiser, image_channels=dataset.channels, sigma=config.sigma)
    network = DenoisedClassifier(opened.network, trial.classifier, mirrored=denoiser.mirrored)
    image = take(dataset.test, torch.zeros(1, dtype=torch.int64))
    certified = CertificationTask(network, image, "test", dataset.class_count)
    config = with_batch_size(config, certified)
    task = sampling_task(config, certified)
    sampler = LocalSampler(task, resolve_device(config.execution.device))
    batch = full_batches(task, max(1, torch.get_num_threads()))
    sampler.class_counts(batch)
    started, sampled = time.monotonic(), 0
    while time.monotonic() - started < _PROBE_SECONDS:
        sampler.class_counts(batch)
        sampled += len(batch) * task.chunk_size
    return sampled / (time.monotonic() - started)
