"""The view of one MLflow run: parameters, metrics, tags, tables and files that it should show."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol, Self, TypeGuard

from decrop.evaluation.table import CertificateTable
from tune.results.metric import Metric

COLOUR_TAG = "mlflow.runColor"
# What MLflow shows as a description.
NOTE_TAG = "mlflow.note.content"

UNDEFENDED_COLOUR = "#000000"
SWEEP_COLOUR = "#666666"
# Okabe and Ito's colours, of which the reference has the first, then those of Tol's muted scheme
# that are like none of them: no two shades of one hue.
_COLOURS = (
    *("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#882255", "#999933", "#332288", "#CC6677", "#117733", "#DDCC77"),
)


def trial_colour(number: int) -> str:
    """Return the colour of a trial and of its final training."""
    return _COLOURS[number % len(_COLOURS)]


SCORE = "held_out/average_certified_radius"


def objective_key(objective: Metric) -> str:
    """Return the name of the metric that has an objective's values."""
    # MLflow takes no @ in a name.
    return SCORE if objective == Metric() else f"objective/{objective.name.replace('@', '_at_')}"


BEST_SO_FAR = "sweep/best_so_far"
TRIAL_NUMBER = "sweep/trial"
CERTIFIED = "certified"
# What a curve's points stand over, a metric too, for MLflow draws a metric over another by step.
CURVE_RADIUS = "certified/L2 radius"


@dataclass(frozen=True)
class Table:
    """Texts and numbers by row; `json` is what MLflow's `log_table` writes."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | float]]

    @classmethod
    def of(cls, certificates: CertificateTable) -> Self:
        """Show certificates as they lie in their file."""
        found = certificates.frame.to_dict("split")
        return cls(found["columns"], found["data"])

    def json(self) -> str:
        """Write the table as pandas' orientation "split"."""
        # MLflow takes a point in a column's name for a path, and shows empty cells.
        columns = [column.replace(".", "·") for column in self.columns]
        return json.dumps({"columns": columns, "data": self.rows}, ensure_ascii=False)


_TRACEBACK_CHARACTERS = 4000

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Measurement:
    """One point of a metric: name, value, step and time (UTC)."""

    metric: str
    value: float
    step: int
    time: datetime


@dataclass(frozen=True)
class Input:
    """What a run worked on, as MLflow lists data sets.

    Attributes:
        digest: hash of its contents, 64 hex digits.
        context: what the run did with it.
    """

    name: str
    digest: str
    source: str
    context: str


@dataclass(frozen=True)
class RunView:
    """Everything one MLflow run should show.

    Attributes:
        artifacts: files by their path among the run's artifacts.
        tables: shown as tables, by such a path.
    """

    name: str
    status: RunStatus
    started: datetime
    ended: datetime | None
    parameters: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    measurements: Sequence[Measurement] = ()
    artifacts: Mapping[str, Path] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    inputs: Sequence[Input] = ()


class Source(Protocol):
    """Files that become a run."""

    @property
    def key(self) -> str:
        """What it is within all that is shown: `trials/0`, `final/0`, …"""

    def stamps(self) -> dict[str, Stamp]:
        """Return what changes whenever a file that is shown is replaced."""

    def view(self) -> RunView | None:
        """Read the files; None while there is nothing to show."""


def by_name(*paths: Path) -> dict[str, Path]:
    """Return files by their names."""
    return {path.name: path for path in paths}


def existing(files: Mapping[str, Path]) -> dict[str, Path]:
    """Return those that exist."""
    return {name: path for name, path in files.items() if path.exists()}


def stamps_of(files: Mapping[str, Path]) -> dict[str, Stamp]:
    """Return what changes whenever a file is replaced; files that do not exist have none."""
    stamps = {}
    for name, path in files.items():
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        # A replaced file has another inode even within the clock's resolution.
        stamps[name] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return stamps


def modified(path: Path) -> datetime:
    """Return when a file was written, in whole seconds."""
    return datetime.fromtimestamp(int(path.stat().st_mtime), UTC)


def made_by(command: str) -> dict[str, str]:
    """Return the tags of a run that a command of decrop made, which MLflow shows as its source."""
    return {"mlflow.source.name": f"decrop {command}", "mlflow.source.type": "LOCAL"}


def error_note(error: str | None) -> str:
    """Return a run's description that shows the end of a traceback, if there is one."""
    # An empty note replaces the error of an earlier attempt.
    return f"```\n{error.strip()[-_TRACEBACK_CHARACTERS:]}\n```" if error else ""


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell whether a JSON value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)
