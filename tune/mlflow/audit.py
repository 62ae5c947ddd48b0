"""Audit of a sweep: its files compared with what MLflow holds."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from decrop.errors import InputError
from decrop.wording import counted, joined
from tune.directory import SweepDirectory
from tune.mlflow.run_view import Measurement, Source
from tune.mlflow.sweep_view import SweepSource, sources
from tune.mlflow.tracker import LoggedRun, Tracker
from tune.mlflow.trial_view import TrialSource
from tune.results.tables import TextTable
from tune.space import total_trials
from tune.sweep_file import SweepConfig
from tune.trust import resume_command

Point = tuple[str, int]
Points = Mapping[Point, Sequence[float]]

# What an SQL store of MLflow writes for infinity.
_LARGEST = 1.7976931348623157e308
_NAMED_POINTS = 3
_KINDS = {
    "trials": "trials",
    "final": "certified on test images",
    "seeds": "from other seeds",
    "undefended": "no denoiser",
    "sweep": "the sweep",
}


@dataclass
class Audit:
    """What was compared and what was found.

    Attributes:
        trials: of the sweep that the files or MLflow know.
        lost: trials and trainings that one of both does not have, or cannot read, by key.
        doubled: trials that a second folder says it is, and runs beyond the first of a key.
        metric_mismatches: points of metrics that are missing, too many or different.
        problems: a line for each thing that is wrong.
        notes: lines on what is not wrong but good to know.
        folders: by kind of run.
        runs: in MLflow by kind.
        points: of metrics that were compared, by kind.
    """

    trials: set[int] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    doubled: int = 0
    metric_mismatches: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    folders: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)

    @property
    def counts(self) -> dict[str, int]:
        """What was found, in numbers."""
        return {
            "trials": len(self.trials),
            "lost": len(self.lost),
            "doubled": self.doubled,
            "metric_mismatches": self.metric_mismatches,
        }

    def lose(self, key: str, why: str) -> None:
        """Note that something is not there, once for each key."""
        self.lost.add(key)
        self.problems.append(f"{key}: {why}")


def audit_sweep(directory: SweepDirectory, tracking_uri: str | None = None) -> Audit:
    """Compare everything that a sweep directory says with MLflow.

    Nothing is written. A sweep whose leaderboard is written must have all trials that its file asks
    for, and all of them ended; of another one, those that are still to come are only noted.

    Args:
        tracking_uri: of an MLflow server, instead of the store in the directory.

    Raises:
        TrackingError: MLflow cannot be read.
    """
    if tracking_uri is None and not directory.mlflow_database_path.exists():
        raise InputError(
            f"{directory.path} has no MLflow store of its own; give the server that the sweep was "
            "tracked on, --tracking-uri http://…"
        )
    record = directory.read_record()
    audit = Audit()
    tracker = Tracker(directory, tracking_uri)
    logged = _by_key(tracker.logged_runs())
    for key in logged:
        if _is_trial(key):
            audit.trials.add(int(key.removeprefix("trials/")))
    audit.trials.update(directory.trial_numbers())
    going_on = f"go on with: {resume_command(directory, tracking_uri=tracking_uri)}"
    _look_for_trials(audit, directory, record.sweep, going_on)
    _compare_runs(audit, sources(directory, record), logged, tracker.catching_up)
    if directory.driver_path.exists():
        audit.notes.append("The sweep seems to run: MLflow may be some seconds behind its files.")
    return audit


def audit_table(audit: Audit) -> TextTable:
    """Tabulate how much of each kind there is was compared."""
    rows = [
        [
            name,
            str(audit.folders[kind]),
            str(audit.runs[kind]),
            str(audit.points[kind]),
        ]
        for kind, name in _KINDS.items()
        if audit.folders[kind] or audit.runs[kind]
    ]
    mismatches = counted(audit.metric_mismatches, "metric mismatch", "metric mismatches")
    wrong = {
        f"{len(audit.lost)} lost": len(audit.lost),
        f"{audit.doubled} double": audit.doubled,
        mismatches: audit.metric_mismatches,
    }
    found = joined([text for text, count in wrong.items() if count])
    return TextTable(
        f"Files and MLflow compared: {counted(len(audit.trials), 'trial')}, "
        f"{found or 'nothing lost, double or different'}.",
        ["", "in files", "in MLflow", "metric points"],
        rows,
    )


def _compare_runs(
    audit: Audit,
    shown: Iterable[Source],
    logged: Mapping[str, Sequence[LoggedRun]],
    catching_up: str,
) -> None:
    found = [source for source in shown if source.stamps()]
    for key in sorted(set(logged) - {source.key for source in found} - audit.lost):
        audit.lose(key, "has a run in MLflow but no folder")
    for source in found:
        kind = _kind(source.key)
        if isinstance(source, SweepSource) and any(map(_is_trial, audit.lost)):
            audit.notes.append("What the sweep's own run shows was not compared without them.")
            continue
        try:
            measurements = _measurements(source)
        except InputError as error:
            audit.lose(source.key, f"cannot be read: {error}")
            continue
        if measurements is None:
            continue
        audit.folders[kind] += 1
        if isinstance(source, TrialSource) and source.kind == "trial":
            _check_number(audit, source)
        expected = _points((m.metric, m.step, m.value) for m in measurements)
        runs = logged.get(source.key, ())
        there = [run for run in runs if not run.deleted]
        audit.runs[kind] += len(there)
        if not there:
            audit.lose(
                source.key,
                "its run was deleted in MLflow; restore it there"
                if runs
                else f"has no run in MLflow; {catching_up}",
            )
            continue
        if len(there) > 1:
            audit.doubled += len(there) - 1
            ids = ", ".join(run.id for run in there)
            audit.problems.append(f"{source.key}: has {len(there)} runs in MLflow: {ids}")
        audit.points[kind] += len(expected)
        for run in there:
            _compare_points(audit, f"{source.key} in MLflow", expected, _points(run.points))


def _check_number(audit: Audit, source: TrialSource) -> None:
    record = source.folder.read_record()
    if record is not None and f"trials/{record.number}" != source.key:
        audit.doubled += 1
        audit.problems.append(f"{source.key}: its trial.json says that it is trial {record.number}")


def _look_for_trials(
    audit: Audit, directory: SweepDirectory, sweep: SweepConfig, going_on: str
) -> None:
    """Look whether the trials are there that the sweep's file asks for."""
    total = total_trials(sweep)
    left = []
    for number in range(total):
        folder = directory.trial(number)
        try:
            state = folder.read_state()
        except InputError:
            continue  # Reported where folders are compared with runs.
        if state is None or state.state == "running":
            left.append(number)
    if left and directory.leaderboard_json_path.exists():
        for number in left:
            how = "has not ended" if directory.trial(number).path.exists() else "has no folder"
            audit.trials.add(number)
            audit.lose(f"trials/{number}", f"{how}, but the sweep has its leaderboard")
    elif left:
        audit.notes.append(f"not ended: {len(left)} of {counted(total, 'trial')}; {going_on}")
    if len(audit.trials) > total:
        audit.problems.append(f"there are {len(audit.trials)} trials, but the sweep has {total}")


def _measurements(source: Source) -> Sequence[Measurement] | None:
    if isinstance(source, SweepSource):
        # Its view draws figures as well, which takes seconds.
        return source.best.measurements()
    view = source.view()
    return None if view is None else view.measurements


def _compare_points(audit: Audit, where: str, expected: Points, found: Points) -> None:
    wrong = []
    for name, step in sorted(set(expected) | set(found)):
        values, others = expected.get((name, step), ()), found.get((name, step), ())
        if list(map(_stored, values)) == list(map(_stored, others)):
            continue
        shown = " and ".join(f"{value:.10g}" for value in others) or "nothing"
        asked = " and ".join(f"{value:.10g}" for value in values) or "nothing"
        wrong.append(f"{name} at step {step} is {shown}, in the files {asked}")
    audit.metric_mismatches += len(wrong)
    audit.problems += [f"{where}: {line}" for line in wrong[:_NAMED_POINTS]]
    if len(wrong) > _NAMED_POINTS:
        audit.problems.append(f"{where}: and {counted(len(wrong) - _NAMED_POINTS, 'more point')}")


def _points(given: Iterable[tuple[str, int, float]]) -> Points:
    points: defaultdict[Point, list[float]] = defaultdict(list)
    for name, step, value in given:
        points[name, step].append(value)
    return {point: sorted(values) for point, values in points.items()}


def _stored(value: float) -> float | str:
    """Return a value as stores keep it, comparable to itself."""
    if math.isnan(value):
        return "nan"
    return math.copysign(_LARGEST, value) if math.isinf(value) else value


def _by_key(runs: Iterable[LoggedRun]) -> dict[str, list[LoggedRun]]:
    by_key: defaultdict[str, list[LoggedRun]] = defaultdict(list)
    for run in runs:
        by_key[run.key].append(run)
    return dict(by_key)


def _is_trial(key: str) -> bool:
    return key.startswith("trials/")


def _kind(key: str) -> str:
    return "seeds" if "/seeds/" in key else key.partition("/")[0]
