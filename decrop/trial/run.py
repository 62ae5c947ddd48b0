"""One whole trial without Ray: samples, prior, denoiser, class counts, certificates, result."""

from collections.abc import Iterator, Sequence

from decrop.cache import ContentCache
from decrop.config import TrialConfig
from decrop.training.hooks import NO_HOOKS, Hooks
from decrop.trial.certify import (
    CertificationTask,
    certify,
    last_estimation_samples,
    trial_result,
    with_recorded_batch_size,
)
from decrop.trial.folder import Report, TrialFolder
from decrop.trial.inputs import TrialInputs
from decrop.trial.parts import (
    PARTS,
    FinishedClassifierPart,
    TrainedPart,
)
from decrop.trial.result import Scores, Split, TrialResult
from decrop.trial.several_sigmas import certify_at_sigmas


def run_trial(
    config: TrialConfig,
    inputs: TrialInputs,
    folder: TrialFolder,
    cache: ContentCache,
    *,
    split: Split,
    last_epoch: int | None = None,
    trained: TrialFolder | None = None,
    hooks: Hooks = NO_HOOKS,
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
        last_epoch: of a `test` training, where it ends before its last phase does.
        trained: folder of the finished trial on `held_out` whose classifier is certified on `test`
            as it is, where it needs none of the held-out images.

    Raises:
        ChangedInputsError: the folder was begun with another classifier or other data.
        TrialStoppedError: the hooks said so.
    """
    folder.keep_inputs(inputs.hashes_of(config, split))
    folder.write_config(config)
    reports = folder.reports
    yield from reports
    if reports and reports[-1].finished:
        return

    part: TrainedPart
    if trained is not None:
        part = FinishedClassifierPart(config, trained)
    else:
        part = PARTS[config.trains](config, inputs, split, cache, hooks)
    part.load_progress(folder)
    images, evaluations = inputs.test, 1
    if split == "held_out":
        images = inputs.limited.held_out
        evaluations = config.training.evaluations
    task = CertificationTask(part.network, images, split, inputs.classifier.class_count)
    config = with_recorded_batch_size(part.config, task, folder.execution_path)
    samples = config.certification
    epochs = last_epoch or part.epochs
    scored_epochs = epochs - part.unscored_epochs
    keeps_best = split == "held_out" and config.training.early_stopping
    stage = f"training{' without held-out images' if split == 'held_out' else ''}, epochs"

    def on_epoch(done: int) -> None:
        hooks.on_progress(stage, done, epochs)

    for evaluation in range(len(reports) + 1, evaluations + 1):
        scored_after = part.unscored_epochs + evaluation * scored_epochs // evaluations
        part.train(folder, scored_after, hooks, on_epoch)
        epoch, finished = part.epochs_done, evaluation == evaluations
        if not finished or keeps_best:
            scores = certify(
                config, task, estimation_samples=samples.pruning_samples, hooks=hooks.silent()
            ).scores
        if keeps_best:
            epoch = _keep_best(folder, part, reports, scores, epoch, finished=finished)
        if finished:
            found = certify_at_sigmas(
                config if split == "test" else config.at_sigma(config.sigma),
                task,
                estimation_samples=last_estimation_samples(samples, split),
                journal=folder.counts_path,
                hooks=hooks,
            )
            scores = found.own.scores
            part.save(folder)
            result = trial_result(
                found.own,
                hashes={**inputs.hashes(), "classifier": part.classifier.content_hash()},
                seconds=part.seconds,
                flip_rate=part.flip_rate,
                agreement=inputs.agreement,
                timed=hooks.times_images,
            )
            folder.draw_history(part.history)
            if split == "test":
                part.draw(folder)
            folder.write_outcome(
                found.added_to(result), found.own.table, found.tables, title=part.title
            )
        report = Report(
            evaluation=evaluation,
            epoch=epoch,
            average_certified_radius=scores.average_certified_radius,
            certified_accuracy=scores.certified_accuracy,
            finished=finished,
            area_under_curve=scores.area_under_curve,
        )
        reports.append(report)
        folder.write_reports(reports)
        yield report


def certify_undefended(
    config: TrialConfig, inputs: TrialInputs, folder: TrialFolder, *, hooks: Hooks = NO_HOOKS
) -> TrialResult:
    """Certify the classifier on the test split with no denoiser in front, as a reference.

    A result that is in the folder already is returned as it is.

    Raises:
        ChangedInputsError: the folder was begun with another classifier or other test images.
        TrialStoppedError: the hooks said so.
    """
    folder.keep_inputs(inputs.hashes_of(config, "test"))
    if (finished := folder.result) is not None:
        return finished
    classifier = inputs.protected
    task = CertificationTask(classifier, inputs.test, "test", classifier.class_count)
    found = certify_at_sigmas(
        with_recorded_batch_size(config, task, folder.execution_path),
        task,
        estimation_samples=config.certification.most_estimation_samples,
        journal=folder.counts_path,
        hooks=hooks,
    )
    result = found.added_to(
        trial_result(
            found.own,
            hashes={**inputs.hashes(), "classifier": classifier.content_hash()},
            seconds={},
            agreement=inputs.agreement,
        )
    )
    folder.write_outcome(result, found.own.table, found.tables, title="no denoiser")
    return result


def stopping_epoch(config: TrialConfig, held_out: TrialFolder) -> int | None:
    """Return where training on the whole limited data ends, None if after its last phase.

    Args:
        held_out: folder of the finished trial with these settings on `held_out`.
    """
    return held_out.reports[-1].epoch if config.training.early_stopping else None


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
