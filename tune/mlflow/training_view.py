"""What MLflow should show of the training of a classifier or a rejector, read from its files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from decrop.config import TrialConfig
from decrop.config.rejector import RejectorSettings
from decrop.documents import read_yaml, trial_config, validated
from decrop.evaluation.record import record_path
from decrop.files import read_json
from decrop.training.folder import ClassifierFolder
from tune.mlflow.run_view import (
    COLOUR_TAG,
    Measurement,
    RunView,
    Stamp,
    Table,
    by_name,
    existing,
    is_number,
    stamps_of,
    trial_colour,
    tsv_table,
)
from tune.mlflow.trial_view import (
    epoch_times,
    flatten_config,
    flatten_settings,
    history_measurements,
    result_measurements,
)
from tune.training_folder import TrainingFolder, known_record

# Settings that say nothing of how a classifier was trained.
_OF_THE_CLASSIFIER = ("seed", "sigma", "dataset.", "limited.", "classifier.", "execution.device")
# Of a bundle's settings those that are the same before and after it is written, for parameters of a
# run cannot change.
_NOT_OF_THE_REJECTOR = ("dataset.path", "classifier.", "execution.")
_TRACEBACK_CHARACTERS = 4000


@dataclass(frozen=True)
class ClassifierTrainingSource:
    """The folder of `decrop classifier train`."""

    folder: TrainingFolder
    key: str = "training"

    def stamps(self) -> dict[str, Stamp]:
        """Return what changes whenever a file that is shown is replaced."""
        files = self._files
        if not files.settings_path.exists():
            return {}
        history = by_name(files.history_path, self.folder.record_path)
        return stamps_of({**history, **self._artifacts()})

    def view(self) -> RunView | None:
        """Read the folder; None while nothing is trained yet.

        Raises:
            InputError: a file of the folder is broken.
        """
        files = self._files
        if not files.settings_path.exists():
            return None
        config = trial_config(read_yaml(files.settings_path), source=str(files.settings_path))
        report = _document(files.report_path)
        record = known_record(self.folder)
        return _view(
            self.folder,
            parameters={
                name: value
                for name, value in flatten_config(config).items()
                if name.startswith(_OF_THE_CLASSIFIER)
            },
            tags=_classifier_tags(config, report),
            history=report.get("epochs") or _records(files.history_path),
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

    folder: TrainingFolder
    key: str = "training"

    def stamps(self) -> dict[str, Stamp]:
        """Return what changes whenever a file that is shown is replaced."""
        found = stamps_of({"settings": self._settings_path, **by_name(self._history_path)})
        if not found:
            return {}
        record = by_name(self.folder.record_path)
        return {**found, **stamps_of({**record, **self._artifacts()})}

    def view(self) -> RunView | None:
        """Read the folder or the bundle; None while nothing is trained yet.

        Raises:
            InputError: a file of them is broken.
        """
        document = _document(self._settings_path)
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
        tables: dict[str, Table] = {}
        if result is not None:
            certificates = self.folder.path / "certificates.tsv"
            measurements += result_measurements(certificates, result, time)
            held_out = document["rejector"]["held_out"]
            measurements += _numbers("held_out", held_out, time)
            tables = {"certificates.json": tsv_table(certificates)}
        return _view(
            self.folder,
            parameters={
                **{f"rejector.{k}": v for k, v in flatten_settings(rejector).items()},
                **{
                    name: value
                    for name, value in flatten_config(config).items()
                    if not name.startswith(_NOT_OF_THE_REJECTOR)
                },
            },
            tags={
                f"hash.{name}": value for name, value in (result or {}).get("hashes", {}).items()
            },
            history=_records(self._history_path),
            measurements=measurements,
            artifacts=existing(self._artifacts()),
            tables=tables,
        )

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
        }


def training_sources(
    folder: TrainingFolder,
) -> Iterator[ClassifierTrainingSource | RejectorTrainingSource]:
    """List what a training becomes in MLflow: one run."""
    if folder.kind == "classifier":
        yield ClassifierTrainingSource(folder)
    else:
        yield RejectorTrainingSource(folder)


def _view(
    folder: TrainingFolder,
    *,
    parameters: Mapping[str, str],
    tags: Mapping[str, str],
    history: list[dict[str, Any]],
    measurements: list[Measurement],
    artifacts: Mapping[str, Path],
    tables: Mapping[str, Table] | None = None,
) -> RunView:
    record = known_record(folder)
    error = record.error
    note = f"```\n{error.strip()[-_TRACEBACK_CHARACTERS:]}\n```" if error else ""
    points = history_measurements(history, epoch_times(record.started, history))
    return RunView(
        name=record.name,
        status=record.status,
        started=record.started,
        ended=record.ended,
        parameters=parameters,
        tags={
            "kind": f"{record.kind} training",
            "mlflow.note.content": note,
            "mlflow.source.name": f"decrop {record.kind} train",
            "mlflow.source.type": "LOCAL",
            # One of the colours for each training, the same whenever it goes on.
            COLOUR_TAG: trial_colour(int(record.id[:8], 16)),
            **tags,
        },
        measurements=[*points, *measurements],
        artifacts=artifacts,
        tables=tables or {},
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


def _document(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = read_json(path) if path.exists() else {}
    return document


def _records(path: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = read_json(path) if path.exists() else []
    return records
