"""Trainings of classifiers and rejectors in MLflow, read from their files."""

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from decrop.cli.output import say
from decrop.config import TrialConfig
from decrop.config.rejector import RejectorSettings
from decrop.documents import trial_config, validated
from decrop.errors import InputError
from decrop.evaluation.record import record_path
from decrop.evaluation.table import CertificateTable
from decrop.files import read_object, read_rows
from decrop.training.folder import ClassifierFolder
from tune.directory import now
from tune.mlflow.client import TrackingError, check_tracking_uri
from tune.mlflow.experiment import ExperimentView, experiment_page
from tune.mlflow.measurements import epoch_times, history_measurements, result_measurements
from tune.mlflow.page import page_state
from tune.mlflow.run_view import (
    COLOUR_TAG,
    Measurement,
    RunView,
    Stamp,
    Table,
    by_name,
    error_note,
    existing,
    is_number,
    made_by,
    stamps_of,
    trial_colour,
)
from tune.mlflow.tracked_training import TrackedTraining, TrainingKind, known_record
from tune.mlflow.tracker import RunsTracker, Shown, TrackingThread
from tune.mlflow.trial_view import flatten_settings
from tune.space import CLASSIFIER_TRIALS

# Settings that say nothing of how a classifier was trained.
_OF_THE_CLASSIFIER = ("seed", "sigma", "dataset.", "limited.", "classifier.", "execution.device")
# Of a bundle's settings those that are the same before and after it is written, for parameters of a
# run cannot change.
_NOT_OF_THE_REJECTOR = ("dataset.path", "classifier.", "execution.")


@dataclass(frozen=True)
class ClassifierTrainingSource:
    """The folder of `decrop classifier train`."""

    folder: TrackedTraining
    key: str = "training"

    def stamps(self) -> dict[str, Stamp]:
        """Return what changes whenever a file that is shown is replaced."""
        files = self._files
        if not files.settings_path.exists():
            return {}
        history = by_name(files.history_path, self.folder.record_path)
        return stamps_of({**history, **self._artifacts()})

    def view(self) -> RunView | None:
        """Read the folder; None while nothing is trained yet."""
        files = self._files
        config = files.read_settings()
        if config is None:
            return None
        report = files.read_report() or {}
        record = known_record(self.folder)
        return _view(
            self.folder,
            parameters={
                name: value
                for name, value in flatten_settings(config).items()
                if name.startswith(_OF_THE_CLASSIFIER)
            },
            tags=_classifier_tags(config, report),
            history=report.get("epochs") or files.read_history(),
            measurements=_accuracies(report, record.ended or record.started),
            artifacts=existing(self._artifacts()),
        )

    @property
    def _files(self) -> ClassifierFolder:
        return ClassifierFolder(self.folder.path)

    def _artifacts(self) -> dict[str, Path]:
        files = self._files
        return by_name(files.settings_path, files.report_path, files.weights_path)


@dataclass(frozen=True)
class RejectorTrainingSource:
    """The bundle that `decrop rejector train` writes, and the folder that it works in before."""

    folder: TrackedTraining
    key: str = "training"

    def stamps(self) -> dict[str, Stamp]:
        """Return what changes whenever a file that is shown is replaced."""
        found = stamps_of({"settings": self._settings_path, **by_name(self._history_path)})
        if not found:
            return {}
        record = by_name(self.folder.record_path)
        return {**found, **stamps_of({**record, **self._artifacts()})}

    def view(self) -> RunView | None:
        """Read the folder or the bundle; None while nothing is trained yet."""
        document = read_object(self._settings_path)
        if not document:
            return None
        source = str(self._settings_path)
        config = trial_config(document["trial"], source=source)
        settings = document["rejector"].get("settings", document["rejector"])
        rejector = validated(RejectorSettings, settings, source=source)
        result = document.get("result")
        record = known_record(self.folder)
        time = record.ended or record.started
        measurements: list[Measurement] = []
        certificates = None
        if result is not None:
            certificates = CertificateTable.read_tsv(self.folder.path / "certificates.tsv")
            measurements += result_measurements(certificates, result, time)
            held_out = document["rejector"]["held_out"]
            measurements += _numbers("held_out", held_out, time)
        view = _view(
            self.folder,
            parameters={
                **{f"rejector.{k}": v for k, v in flatten_settings(rejector).items()},
                **{
                    name: value
                    for name, value in flatten_settings(config).items()
                    if not name.startswith(_NOT_OF_THE_REJECTOR)
                },
            },
            tags={
                f"hash.{name}": value for name, value in (result or {}).get("hashes", {}).items()
            },
            history=read_rows(self._history_path),
            measurements=measurements,
            artifacts=existing(self._artifacts()),
        )
        if certificates is None:
            return view
        return replace(view, tables={"certificates.json": Table.of(certificates)})

    @property
    def _ended(self) -> bool:
        return self.folder.result_path.exists()

    @property
    def _settings_path(self) -> Path:
        return (self.folder.path if self._ended else self.folder.work_path) / "config.json"

    @property
    def _history_path(self) -> Path:
        if self._ended:
            return self.folder.path / "rejector_history.json"
        return self.folder.work_path / "history.json"

    def _artifacts(self) -> dict[str, Path]:
        if not self._ended:
            return {}
        bundle = self.folder.path
        files = by_name(
            bundle / "config.json",
            bundle / "README.md",
            bundle / "rejector.safetensors",
            bundle / "certificates.tsv",
            record_path(bundle / "certificates.tsv"),
        )
        return {
            **files,
            "figures/certified_accuracy.png": bundle / "figures/certified_accuracy.png",
            "figures/p_a_distribution.png": bundle / "figures/p_a_distribution.png",
        }


def training_sources(
    folder: TrackedTraining,
) -> Iterator[ClassifierTrainingSource | RejectorTrainingSource]:
    """List what a training becomes in MLflow: one run."""
    if folder.kind == "classifier":
        yield ClassifierTrainingSource(folder)
    else:
        yield RejectorTrainingSource(folder)


def _view(
    folder: TrackedTraining,
    *,
    parameters: Mapping[str, str],
    tags: Mapping[str, str],
    history: list[dict[str, Any]],
    measurements: list[Measurement],
    artifacts: Mapping[str, Path],
) -> RunView:
    record = known_record(folder)
    points = history_measurements(history, epoch_times(record.started, history))
    return RunView(
        name=record.name,
        status=record.status,
        started=record.started,
        ended=record.ended,
        parameters=parameters,
        tags={
            "kind": f"{record.kind} training",
            "mlflow.note.content": error_note(record.error),
            **made_by(f"{record.kind} train"),
            # One of the colours for each training, the same whenever it goes on.
            COLOUR_TAG: trial_colour(int(record.id[:8], 16)),
            **tags,
        },
        measurements=[*points, *measurements],
        artifacts=artifacts,
    )


def _classifier_tags(config: TrialConfig, report: Mapping[str, Any]) -> dict[str, str]:
    training = config.classifier.training
    tags: dict[str, str] = {} if training is None else {"objective": training.objective}
    tags |= {name: str(report[name]) for name in ("precision", "device") if name in report}
    if "classifier" in report:
        tags["hash.classifier"] = report["classifier"]
    return tags


def _accuracies(report: Mapping[str, Any], time: datetime) -> list[Measurement]:
    points = _numbers("held_out", report.get("held_out") or {}, time)
    if is_number(report.get("seconds")):
        points.append(Measurement("seconds/training", float(report["seconds"]), 0, time))
    return points


def _numbers(group: str, values: Mapping[str, Any], time: datetime) -> list[Measurement]:
    return [
        Measurement(f"{group}/{name}", float(value), 0, time)
        for name, value in values.items()
        if is_number(value)
    ]


@contextmanager
def track_training(
    kind: TrainingKind, path: Path, tracking_uri: str, experiment: str | None
) -> Iterator[None]:
    """Show a training in MLflow while it runs in the block, and how it ended.

    A training that goes on after it was killed is the same run. MLflow being away delays nothing.
    Where the block refuses its input, nothing is shown.

    Args:
        path: folder of the classifier, or of the bundle to be written.
        experiment: its run's experiment, made if there is none; one for each kind if not given.
    """
    check_tracking_uri(tracking_uri)
    try:
        import mlflow  # noqa: F401
    except ImportError:
        raise InputError(
            "--tracking-uri needs MLflow; install it with pip install 'decrop[sweep]'."
        ) from None
    folder = TrackedTraining(kind, path)
    earlier = folder.read_record()
    record = folder.begin(experiment or f"{kind} training")
    tracker = RunsTracker(_shown(folder), tracking_uri)
    thread = TrackingThread(tracker)
    thread.start()
    try:
        yield
    except InputError:
        thread.abandon()
        if earlier is None:
            folder.forget()
        else:
            folder.write_record(earlier)
        raise
    except BaseException as error:
        failed = isinstance(error, Exception)
        ending = {
            "status": "FAILED" if failed else "KILLED",
            "error": traceback.format_exc() if failed else None,
        }
        folder.write_record(record.model_copy(update={**ending, "ended": now()}))
        thread.stop()
        raise
    if record.status == "RUNNING":
        folder.write_record(record.model_copy(update={"status": "FINISHED", "ended": now()}))
    thread.stop()
    _say_where(tracker, thread, tracking_uri)


def sync_training(folder: TrackedTraining, tracking_uri: str) -> None:
    """Bring MLflow up to date with a training; repeating it changes nothing.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    folder.settle()
    RunsTracker(_shown(folder), tracking_uri).sync()


def _shown(folder: TrackedTraining) -> Shown:
    """Return one run, in an experiment that several trainings share."""
    record = known_record(folder)
    page = page_state(CLASSIFIER_TRIALS)
    return Shown(
        path=folder.path,
        state_path=folder.state_path,
        id=record.id,
        experiment=ExperimentView(record.experiment, page),
        sources=lambda _: training_sources(folder),
    )


def _say_where(tracker: RunsTracker, thread: TrackingThread, tracking_uri: str) -> None:
    if thread.last_error is None:
        try:
            page = experiment_page(tracker.experiment_id())
        except TrackingError as error:
            thread.last_error = error
    if thread.last_error is None:
        line = f"MLflow: {tracking_uri.rstrip('/')}{page}"
    else:
        line = f"warning: {thread.closing_warning()}"
    say(line)
