"""One whole trial without Ray: samples, prior, denoiser, class counts, certificates, result."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch

from decrop.cache import ContentCache, Tensors
from decrop.classifiers.storage import AnyClassifier
from decrop.config import TrialConfig
from decrop.files import write_json
from decrop.smoothing.collect import CertificationProgress, OnProgress
from decrop.smoothing.execution import resolve_device, resolve_precision
from decrop.synthesis.synthetic_samples import SyntheticSamples, synthetic_samples
from decrop.training.denoiser import DenoiserTrainer
from decrop.training.loop import train
from decrop.training.prior import Prior, prior_weights
from decrop.trial.certify import (
    MakeSampler,
    certificate_table,
    last_estimation_samples,
    local_sampler,
    with_fitting_execution,
    with_recorded_batch_size,
)
from decrop.trial.folder import (
    TrialFolder,
    keep_inputs,
    load_progress,
    read_reports,
    save_outcome,
    save_progress,
    save_training_figure,
)
from decrop.trial.inputs import TrialInputs
from decrop.trial.outcome import accuracy_without_noise, latency, trial_result
from decrop.trial.parts import ClassifierPart, DenoiserPart, TrainedPart
from decrop.trial.result import Scores, Split


class TrialStoppedError(Exception):
    """A trial was asked to stop; what it had done by then is in its folder."""


@dataclass(frozen=True)
class Report:
    """A held-out (or, at the end of a final training, test) score of a trial.

    Attributes:
        evaluation: counted from 1.
        epoch: epochs that the scored denoiser was trained for.
        average_certified_radius: the sweep's objective.
        certified_accuracy: by radius.
        finished: whether this is the trial's last report.
    """

    evaluation: int
    epoch: int
    average_certified_radius: float
    certified_accuracy: dict[str, float]
    finished: bool


def run_trial(
    config: TrialConfig,
    inputs: TrialInputs,
    folder: TrialFolder,
    cache: ContentCache,
    *,
    split: Split,
    last_epoch: int | None = None,
    make_sampler: MakeSampler | None = None,
    on_prior_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[int, int], None] | None = None,
    on_certified: OnProgress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[Report]:
    """Train a denoiser and certify it, yielding a report at each evaluation.

    On `held_out` the denoiser is trained without the held-out images and scored on them; on `test`
    it is trained on the whole limited data and certified on the test split, once, at the end. A
    trial without a denoiser trains the classifier in its place, on what its settings say. Work
    already in the folder is not done again: reports are repeated, training goes on from its
    checkpoint, and the result is the one an uninterrupted trial gives. Closing the iterator stops
    the trial.

    In front of a black box all of it goes through a surrogate, save the certificates on `test`.

    Args:
        config: the trial's settings.
        inputs: classifier and data.
        folder: where everything is written.
        cache: where stage-1 samples and the prior are shared.
        split: what to train on and certify.
        last_epoch: of a `test` training, where it ends before its last phase does.
        make_sampler: who draws class counts; the own process by default.
        on_prior_step: called with steps of pretraining done and in all.
        on_epoch: called with epochs done and in all.
        on_certified: called with the progress of the last certification.
        should_stop: asked after each epoch, when the state is saved before the trial stops, and
            after each group of draws of the last certification, which are in its journal.

    Raises:
        ChangedInputsError: the folder was begun with another classifier or other data.
        TrialStoppedError: `should_stop` said so.
    """
    device = resolve_device(config.execution.device)
    make_sampler = make_sampler or local_sampler(config)
    keep_inputs(folder.inputs_path, inputs.hashes_of(config, split))
    write_json(folder.config_path, config.model_dump(mode="json"))
    reports = [Report(**report) for report in read_reports(folder)]
    yield from reports
    if reports and reports[-1].finished:
        return

    config = with_fitting_execution(
        config,
        inputs.classifier,
        tuple(inputs.limited.all.images.shape[1:]),
        trained_through=not config.trains_classifier,
    )
    part: TrainedPart
    if config.trains_classifier:
        part = ClassifierPart(config, inputs, split, device)
    else:
        part = _denoiser_part(config, inputs, cache, device, split, on_prior_step)
    load_progress(folder, part.trainer)
    if split == "held_out":
        images = inputs.limited.all.subset(inputs.limited.held_out_mask)
        evaluations = config.training.evaluations
    else:
        images = inputs.test
        evaluations = 1

    network = part.network
    class_count = inputs.classifier.class_count
    config = with_recorded_batch_size(
        config, network, images, class_count=class_count, path=folder.execution_path
    )
    certify = partial(
        certificate_table,
        config,
        network,
        images,
        split=split,
        class_count=class_count,
        make_sampler=make_sampler,
    )
    epochs = last_epoch or part.epochs
    keeps_best = split == "held_out" and config.training.early_stopping
    for evaluation in range(len(reports) + 1, evaluations + 1):
        until = evaluation * epochs // evaluations
        _train_until(part, until, epochs, folder, on_epoch, should_stop)
        epoch, finished = part.trainer.epochs_done, evaluation == evaluations
        started = time.monotonic()
        if not finished or keeps_best:
            table = certify(estimation_samples=config.certification.pruning_samples)
            scores = Scores.of(table, config.certification.radii)
        if keeps_best:
            epoch = _keep_best(folder, part, reports, scores, epoch, finished=finished)
        if finished:
            table = certify(
                estimation_samples=last_estimation_samples(config.certification, split),
                journal=folder.counts_path,
                on_certified=stopping_between_groups(should_stop, on_certified),
            )
            scores = Scores.of(table, config.certification.radii)
            part.save(folder)
            result = trial_result(
                config,
                inputs,
                part.classifier,
                split,
                scores,
                images,
                clean_accuracy=accuracy_without_noise(inputs, network, images, device, folder),
                flip_rate=part.flip_rate,
                seconds={
                    **part.seconds,
                    "certification": time.monotonic() - started,
                    **(latency(config, network, images, class_count) if split == "test" else {}),
                },
            )
            save_training_figure(folder, [asdict(record) for record in part.trainer.history])
            if split == "test":
                part.draw(folder)
            save_outcome(folder, result, table, title=part.title)
        report = Report(
            evaluation=evaluation,
            epoch=epoch,
            average_certified_radius=scores.average_certified_radius,
            certified_accuracy=scores.certified_accuracy,
            finished=finished,
        )
        reports.append(report)
        write_json(folder.reports_path, [asdict(report) for report in reports])
        yield report


def stopping_epoch(config: TrialConfig, held_out: TrialFolder) -> int | None:
    """Return where training on the whole limited data ends, None if after its last phase.

    Args:
        config: the trial's settings.
        held_out: folder of the finished trial with these settings on `held_out`.
    """
    return read_reports(held_out)[-1]["epoch"] if config.training.early_stopping else None


def stopping_between_groups(
    should_stop: Callable[[], bool] | None, on_certified: OnProgress | None = None
) -> OnProgress:
    """Return a listener to the progress of a certification that stops it when asked to.

    What was drawn until then is in the certification's journal.
    """

    def listen(progress: CertificationProgress) -> None:
        if on_certified is not None:
            on_certified(progress)
        if should_stop is not None and should_stop():
            raise TrialStoppedError

    return listen


def _denoiser_part(
    config: TrialConfig,
    inputs: TrialInputs,
    cache: ContentCache,
    device: torch.device,
    split: Split,
    on_prior_step: Callable[[int, int], None] | None,
) -> DenoiserPart:
    started = time.monotonic()
    samples = _stage_one(config, inputs, cache, device)
    seconds = {"stage1": time.monotonic() - started}
    certified: AnyClassifier
    if split == "held_out":
        training_mask, certified = ~inputs.limited.held_out_mask, inputs.classifier
    else:
        training_mask, certified = torch.ones_like(inputs.limited.held_out_mask), inputs.protected
    started = time.monotonic()
    prior = _prior(config, inputs, cache, device, on_prior_step)
    if prior is not None:
        seconds["prior"] = time.monotonic() - started
    trainer = DenoiserTrainer(
        config, inputs.classifier, samples.subset(training_mask), device, initial_weights=prior
    )
    return DenoiserPart(
        config, inputs, samples, training_mask, trainer, certified, device=device, seconds=seconds
    )


def _stage_one(
    config: TrialConfig, inputs: TrialInputs, cache: ContentCache, device: torch.device
) -> SyntheticSamples:
    # Of all limited images, so that trial and final training share an entry; trials drop some.
    return synthetic_samples(
        inputs.classifier,
        inputs.limited,
        config.boundary,
        config.interpolation,
        seed=config.seed,
        cache=cache,
        device=device,
    )


def _prior(
    config: TrialConfig,
    inputs: TrialInputs,
    cache: ContentCache,
    device: torch.device,
    on_step: Callable[[int, int], None] | None,
) -> Tensors | None:
    channels, height, width = inputs.limited.all.images.shape[1:]
    prior = Prior(
        config.prior,
        config.denoiser,
        sigma=config.sigma,
        image_shape=(channels, height, width),
        seed=config.seed,
        precision=resolve_precision(config.execution.training_precision, device),
    )
    return prior_weights(prior, cache, device, on_step)


def _train_until(
    part: TrainedPart,
    epoch: int,
    epochs: int,
    folder: TrialFolder,
    on_epoch: Callable[[int, int], None] | None,
    should_stop: Callable[[], bool] | None,
) -> None:
    trainer = part.trainer

    def count(steps: int, _: int) -> None:
        if on_epoch is not None:
            on_epoch(steps // trainer.steps_an_epoch, epochs)

    save = partial(save_progress, folder, trainer)
    if not train(trainer, epochs=epoch, save=save, on_step=count, should_stop=should_stop):
        raise TrialStoppedError


def _keep_best(
    folder: TrialFolder,
    part: TrainedPart,
    reports: Sequence[Report],
    scores: Scores,
    epoch: int,
    *,
    finished: bool,
) -> int:
    """Leave the best weights so far in the folder, and in what is trained at the end.

    Returns:
        the epoch that is to be reported: this one, or at the end that of the best weights.
    """
    best = max(reports, key=lambda report: report.average_certified_radius, default=None)
    if best is None or scores.average_certified_radius > best.average_certified_radius:
        part.save(folder)
        return epoch
    if not finished:
        return epoch
    part.restore(folder)
    return best.epoch
