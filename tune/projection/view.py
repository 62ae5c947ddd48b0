"""What one MLflow run should show (no MLflow here)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeGuard

from tune.projection.tables import Table

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
        name: for people.
        digest: hash of its contents, 64 hex digits.
        source: where it came from.
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
        drawn: contents of files that no file has, made when they are logged, by such a path.
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
    drawn: Mapping[str, bytes] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    inputs: Sequence[Input] = ()


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


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell whether a JSON value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)
