"""What MLflow should show of a sweep directory, read from its files (no MLflow here)."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeGuard

from decrop.config import TrialConfig
from decrop.evaluation.accuracy import certified_accuracy
from decrop.evaluation.table import CertificateTable
from tune.directory import (
    State,
    SweepDirectory,
    SweepRecord,
    SweepTrialFolder,
    TrialRecord,
    TrialState,
)

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
Stamp = tuple[int, int, int]

CURVE_SPACING = 0.05
CURVE_LEAST_EXTENT = 1.0
STEPS_PER_UNIT_RADIUS = 1000

_STATUS: dict[State, RunStatus] = {
    "running": "RUNNING",
    "complete": "FINISHED",
    "pruned": "KILLED",
    "failed": "FAILED",
}
_HISTORY_COLUMNS_NOT_LOGGED = ("epoch", "phase")
_TRACEBACK_CHARACTERS = 4000


@dataclass(frozen=True)
class Measurement:
    """One point of a metric: name, value, step and time (UTC)."""

    metric: str
    value: float
    step: int
    time: datetime


@dataclass(frozen=True)
class RunView:
    """Everything one MLflow run should show."""

    name: str
    status: RunStatus
    started: datetime
    ended: datetime | None
    parameters: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    measurements: Sequence[Measurement] = ()
    artifacts: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialSource:
    """A folder that becomes a run, its key within the sweep and its name for people."""

    key: str
    name: str
    kind: Literal["trial", "final", "seed"]
    folder: SweepTrialFolder

    def stamps(self) -> dict[str, Stamp]:
        """Return what changes whenever a file that is shown is replaced."""
        return _stamps({**_documents(self.folder), **_artifacts(self.folder)})

    def view(self) -> RunView | None:
        """Read the folder; None while the trial has not started.

        Raises:
            InputError: a file of the folder is broken.
        """
        return _trial_view(self)


@dataclass(frozen=True)
class UndefendedSource:
    """The classifier without a denoiser, as a run."""

    folder: SweepTrialFolder
    key: str = "undefended"

    def stamps(self) -> dict[str, Stamp]:
        """Return what changes whenever a file that is shown is replaced."""
        return _stamps({**_documents(self.folder), **_artifacts(self.folder)})

    def view(self) -> RunView | None:
        """Read the folder; None while it has no result.

        Raises:
            InputError: a file of the folder is broken.
        """
        result = self.folder.read_result()
        if result is None:
            return None
        time = _modified(self.folder.result_path)
        return RunView(
            name=f"undefended ({result.get('split', '?')})",
            status="FINISHED",
            started=time,
            ended=time,
            tags={"kind": "undefended", **_result_tags(result)},
            measurements=_result_measurements(self.folder, result, time),
            artifacts=_artifacts(self.folder),
        )


@dataclass(frozen=True)
class SweepSource:
    """The sweep's own run: its leaderboard and the best held-out score so far."""

    directory: SweepDirectory
    record: SweepRecord
    key: str = "sweep"

    def stamps(self) -> dict[str, Stamp]:
        """Return what changes whenever a file that is shown is replaced."""
        paths = self._files()
        for number in self.directory.trial_numbers():
            folder = self.directory.trial(number)
            paths[f"{number}/state"] = folder.state_path
            paths[f"{number}/result"] = folder.result_path
        return _stamps(paths)

    def view(self) -> RunView:
        """Read the sweep's own files and every trial's state and result.

        Raises:
            InputError: one of them is broken.
        """
        leaderboard = self.directory.leaderboard_json_path
        ended = _modified(leaderboard) if leaderboard.exists() else None
        return RunView(
            name=self.record.name,
            status="RUNNING" if ended is None else "FINISHED",
            started=self.record.created,
            ended=ended,
            tags={"kind": "sweep"},
            measurements=best_so_far(self.directory),
            artifacts=_existing(self._files()),
        )

    def _files(self) -> dict[str, Path]:
        files = _by_name(
            self.directory.record_path,
            self.directory.leaderboard_json_path,
            self.directory.leaderboard_markdown_path,
        )
        figure = self.directory.accuracy_figure_path
        return {**files, f"figures/{figure.name}": figure}


Source = TrialSource | UndefendedSource | SweepSource


def sources(directory: SweepDirectory, record: SweepRecord) -> Iterator[Source]:
    """List everything in a sweep directory that becomes a run."""
    for number in directory.trial_numbers():
        yield TrialSource(f"trials/{number}", f"trial {number}", "trial", directory.trial(number))
    for number in directory.final_numbers():
        yield TrialSource(
            f"final/{number}", f"final {number} (test)", "final", directory.final(number)
        )
        for seed in directory.retrained_seeds(number):
            yield TrialSource(
                f"final/{number}/seeds/{seed}",
                f"final {number}, seed {seed} (test)",
                "seed",
                directory.retraining(number, seed),
            )
    yield UndefendedSource(directory.undefended)
    yield SweepSource(directory, record)


def sweep_description(record: SweepRecord) -> str:
    """Describe a sweep in Markdown, for the head of its experiment's page."""
    settings = json.dumps(record.sweep, indent=2)
    trials = (
        "- `trial n` runs are scored on held-out images; trial 0 is the reference.\n"
        "- `final n (test)` runs are the best of them and trial 0, trained again on all limited "
        "data and certified once on the test split; `undefended (test)` has no denoiser.\n"
        "- `final n, seed s (test)` runs are those settings from other seeds.\n"
    )
    if record.sweep.get("search") == "rows":
        trials = (
            "- A run named like a row of the table is scored on held-out images.\n"
            "- A run whose name ends in `(test)` is a row trained again on all limited data and "
            "certified once on the test split; `undefended (test)` has no denoiser.\n"
        )
    return (
        f"**{record.name}**: a sweep over DE-CROP's settings, created "
        f"{record.created:%Y-%m-%d %H:%M:%S} UTC, id `{record.id}`.\n\n"
        f"{trials}"
        f"- Charts of `certified/…`: certified accuracy; the step is the L2 radius × "
        f"{STEPS_PER_UNIT_RADIUS}.\n"
        "- The run named like the sweep carries the leaderboard.\n\n"
        f"```json\n{settings}\n```\n"
    )


def flatten_config(config: TrialConfig) -> dict[str, str]:
    """Return every leaf of a trial's settings by dotted path; all but strings as JSON."""
    return dict(_leaves("", config.model_dump(mode="json")))


def certified_curve(certificates: Path) -> list[tuple[int, float]]:
    """Compute certified accuracy on a grid of 0.05 up to the largest radius, at least to 1.

    Returns:
        pairs of radius × 1000 and certified accuracy in [0,1]; [] where nothing was certified.

    Raises:
        InputError: the file is no table of certificates.
    """
    table = CertificateTable.read_tsv(certificates)
    if not len(table.idx):
        return []
    extent = max(CURVE_LEAST_EXTENT, float(table.radius.max()))
    # Rounding first keeps a radius that lies on the grid from adding a step beyond itself.
    last = math.ceil(round(extent / CURVE_SPACING, 9))
    steps = [round(index * CURVE_SPACING * STEPS_PER_UNIT_RADIUS) for index in range(last + 1)]
    radii = [step / STEPS_PER_UNIT_RADIUS for step in steps]
    accuracies = certified_accuracy(table.predict, table.radius, table.label, radii)
    return [(step, float(accuracy)) for step, accuracy in zip(steps, accuracies, strict=True)]


def best_so_far(directory: SweepDirectory) -> list[Measurement]:
    """Return the best held-out average certified radius among trials 0…n, with step n.

    It ends before the first trial that still runs, since that one may yet change what follows.
    """
    points = []
    best: float | None = None
    for expected, number in enumerate(directory.trial_numbers()):
        folder = directory.trial(number)
        state = folder.read_state()
        if number != expected or state is None or state.ended is None:
            break
        result = folder.read_result()
        score = None if result is None else result.get("average_certified_radius")
        if state.state == "complete" and _is_number(score):
            best = float(score) if best is None else max(best, float(score))
        if best is not None:
            points.append(Measurement("sweep/best_so_far", best, number, state.ended))
    return points


def _trial_view(source: TrialSource) -> RunView | None:
    folder = source.folder
    record, state = folder.read_record(), folder.read_state()
    if record is None or state is None:
        return None
    history, result = folder.read_history(), folder.read_result()
    times = _epoch_times(state.started, history)
    measurements = _history_measurements(history, times)
    if source.kind == "trial":
        # The one report of a final training is its test score, which the result has too.
        measurements += _report_measurements(folder.read_reports(), times, state.started)
    if result is not None:
        measurements += _result_measurements(folder, result, state.ended or state.started)
    return RunView(
        name=source.name if record.row is None else _row_run_name(source, record),
        status=_STATUS[state.state],
        started=state.started,
        ended=state.ended,
        parameters=flatten_config(record.config),
        tags={
            "kind": source.kind,
            **({} if record.row is None else {"row": record.row}),
            "state": state.state,
            "reference": _json(record.reference),
            "pruned": _json(state.state == "pruned"),
            "mlflow.note.content": _error_note(state),
            **({} if result is None else _result_tags(result)),
        },
        measurements=measurements,
        artifacts=_artifacts(folder),
    )


def _row_run_name(source: TrialSource, record: TrialRecord) -> str:
    return record.name if source.kind == "trial" else f"{record.name} (test)"


def _epoch_times(started: datetime, history: list[dict[str, Any]]) -> dict[int, datetime]:
    # Derived from the files, so that logging the same epoch twice gives the very same point.
    times, elapsed = {}, 0.0
    for row in history:
        elapsed += float(row.get("seconds") or 0.0)
        times[int(row["epoch"])] = started + timedelta(seconds=elapsed)
    return times


def _history_measurements(
    history: list[dict[str, Any]], times: Mapping[int, datetime]
) -> list[Measurement]:
    return [
        Measurement(f"train/{name}", float(value), int(row["epoch"]), times[int(row["epoch"])])
        for row in history
        for name, value in row.items()
        if name not in _HISTORY_COLUMNS_NOT_LOGGED and _is_number(value)
    ]


def _report_measurements(
    reports: list[dict[str, Any]], times: Mapping[int, datetime], started: datetime
) -> list[Measurement]:
    return [
        Measurement(name, value, int(row["evaluation"]), times.get(int(row["epoch"]), started))
        for row in reports
        for name, value in _scores("held_out", row)
    ]


def _result_measurements(
    folder: SweepTrialFolder, result: dict[str, Any], time: datetime
) -> list[Measurement]:
    split = result["split"]
    named = [(f"{split}/{name}", result.get(name)) for name in ("images", "clean_accuracy")]
    named.append((f"{split}/abstention_rate", result.get("abstention_rate")))
    named.append(("stage1/flip_rate", result.get("flip_rate")))
    named += [(f"seconds/{name}", value) for name, value in result.get("seconds", {}).items()]
    if split != "held_out":  # The last held-out score is a report already.
        named += _scores(split, result)
    measurements = [
        Measurement(name, float(value), 0, time) for name, value in named if _is_number(value)
    ]
    if folder.certificates_path.exists():
        measurements += [
            Measurement(f"certified/{split}", accuracy, step, time)
            for step, accuracy in certified_curve(folder.certificates_path)
        ]
    return measurements


def _scores(split: str, row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    if _is_number(row.get("average_certified_radius")):
        yield f"{split}/average_certified_radius", float(row["average_certified_radius"])
    for radius, accuracy in row.get("certified_accuracy", {}).items():
        yield f"{split}/certified_accuracy_at_{radius}", float(accuracy)


def _result_tags(result: dict[str, Any]) -> dict[str, str]:
    tags = {name: str(result[name]) for name in ("split", "precision") if name in result}
    return tags | {f"hash.{name}": str(value) for name, value in result.get("hashes", {}).items()}


def _error_note(state: TrialState) -> str:
    # An empty note replaces the error of an earlier attempt.
    return f"```\n{state.error.strip()[-_TRACEBACK_CHARACTERS:]}\n```" if state.error else ""


def _documents(folder: SweepTrialFolder) -> dict[str, Path]:
    return _by_name(folder.state_path, folder.history_path, folder.reports_path, folder.result_path)


def _artifacts(folder: SweepTrialFolder) -> dict[str, Path]:
    files = _by_name(folder.record_path, folder.certificates_path, folder.denoiser_path)
    figures = {f"figures/{path.name}": path for path in sorted(folder.figures_path.glob("*.png"))}
    return {**_existing(files), **figures}


def _by_name(*paths: Path) -> dict[str, Path]:
    return {path.name: path for path in paths}


def _existing(files: Mapping[str, Path]) -> dict[str, Path]:
    return {name: path for name, path in files.items() if path.exists()}


def _stamps(files: Mapping[str, Path]) -> dict[str, Stamp]:
    stamps = {}
    for name, path in files.items():
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        # A replaced file has another inode even within the clock's resolution.
        stamps[name] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return stamps


def _modified(path: Path) -> datetime:
    return datetime.fromtimestamp(int(path.stat().st_mtime), UTC)


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(f"{prefix}.{name}" if prefix else name, inner)
    else:
        yield prefix, value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
