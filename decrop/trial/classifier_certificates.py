"""Test certificates of a classifier alone: without a denoiser, or trained by a trial."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict

from decrop.classifiers.storage import AnyClassifier, load_stored_classifier, store_classifier
from decrop.config import TrialConfig
from decrop.files import read_json, write_json
from decrop.smoothing.collect import OnProgress
from decrop.smoothing.execution import resolve_device
from decrop.trial.certify import (
    MakeSampler,
    certificate_table,
    local_sampler,
    with_recorded_batch_size,
)
from decrop.trial.folder import (
    TrialFolder,
    keep_inputs,
    read_history,
    read_reports,
    save_outcome,
    save_training_figure,
)
from decrop.trial.inputs import TrialInputs
from decrop.trial.outcome import accuracy_without_noise, latency, trial_result
from decrop.trial.parts import ClassifierPart
from decrop.trial.result import Scores, TrialResult
from decrop.trial.run import Report


def certify_undefended(
    config: TrialConfig,
    inputs: TrialInputs,
    folder: TrialFolder,
    *,
    make_sampler: MakeSampler | None = None,
    on_certified: OnProgress | None = None,
) -> TrialResult:
    """Certify the classifier on the test split with no denoiser in front, as a reference.

    A result that is in the folder already is returned as it is.

    Raises:
        ChangedInputsError: the folder was begun with another classifier or other test images.
    """
    keep_inputs(folder.inputs_path, inputs.hashes_of(config, "test"))
    return _certify_alone(
        config,
        inputs,
        inputs.protected,
        folder,
        title="no denoiser",
        make_sampler=make_sampler,
        on_certified=on_certified,
    )


def certify_trained_classifier(
    config: TrialConfig,
    inputs: TrialInputs,
    folder: TrialFolder,
    trained: TrialFolder,
    *,
    make_sampler: MakeSampler | None = None,
    on_certified: OnProgress | None = None,
) -> Iterator[Report]:
    """Certify the classifier of a finished trial on the test split, yielding the one report.

    For a trial whose training has never seen the held-out images and needs none of them either.

    Args:
        config: the trial's settings.
        inputs: data.
        folder: where everything is written, with a copy of the classifier.
        trained: of the finished trial on `held_out`.
        make_sampler: who draws class counts; the own process by default.
        on_certified: called with the progress.
    """
    keep_inputs(folder.inputs_path, inputs.hashes_of(config, "test"))
    write_json(folder.config_path, config.model_dump(mode="json"))
    reports = [Report(**report) for report in read_reports(folder)]
    if not reports:
        classifier, _ = load_stored_classifier(trained.classifier_path)
        store_classifier(classifier, inputs.class_names, folder.classifier_path)
        history = read_history(trained)
        write_json(folder.history_path, history)
        save_training_figure(folder, history)
        result = _certify_alone(
            config,
            inputs,
            classifier,
            folder,
            title=ClassifierPart.title,
            make_sampler=make_sampler,
            on_certified=on_certified,
            seconds={"training": sum(record["seconds"] for record in history)},
        )
        report = Report(
            evaluation=1,
            epoch=read_reports(trained)[-1]["epoch"],
            average_certified_radius=result.scores.average_certified_radius,
            certified_accuracy=result.scores.certified_accuracy,
            finished=True,
        )
        reports.append(report)
        write_json(folder.reports_path, [asdict(report)])
    yield from reports


def _certify_alone(
    config: TrialConfig,
    inputs: TrialInputs,
    classifier: AnyClassifier,
    folder: TrialFolder,
    *,
    title: str,
    make_sampler: MakeSampler | None,
    on_certified: OnProgress | None,
    seconds: Mapping[str, float] | None = None,
) -> TrialResult:
    if folder.result_path.exists():
        return TrialResult.from_json(read_json(folder.result_path))
    device = resolve_device(config.execution.device)
    started = time.monotonic()
    class_count = classifier.class_count
    config = with_recorded_batch_size(
        config,
        classifier,
        inputs.test,
        class_count=class_count,
        path=folder.execution_path,
    )
    table = certificate_table(
        config,
        classifier,
        inputs.test,
        split="test",
        class_count=class_count,
        estimation_samples=config.certification.most_estimation_samples,
        make_sampler=make_sampler or local_sampler(config),
        journal=folder.counts_path,
        on_certified=on_certified,
    )
    result = trial_result(
        config,
        inputs,
        classifier,
        "test",
        Scores.of(table, config.certification.radii),
        inputs.test,
        clean_accuracy=accuracy_without_noise(inputs, classifier, inputs.test, device, folder),
        flip_rate=None,
        seconds={
            **(seconds or {}),
            "certification": time.monotonic() - started,
            **latency(config, classifier, inputs.test, class_count),
        },
    )
    save_outcome(folder, result, table, title=title)
    return result
