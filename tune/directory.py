"""The sweep directory: one folder that holds all a sweep knows, and where each thing lies."""

import os
import re
import reprlib
import shlex
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import AwareDatetime, Field, TypeAdapter, ValidationError, model_validator

from decrop.config import (
    CountOrZero,
    FreeMapping,
    LongText,
    Settings,
    Text,
    TrialConfig,
    Word,
)
from decrop.errors import InputError
from decrop.files import read_json, read_object, read_rows, write_json
from decrop.trial.folder import TrialFolder
from tune.sample_counts import SampleCounts, SamplesByHost
from tune.sweep_file import SweepConfig

State = Literal["running", "complete", "pruned", "failed"]

# MLflow's store in a folder of ours, and its artifacts.
OWN_STORE, OWN_ARTIFACTS = "mlflow.db", "mlflow-artifacts"

_Record = TypeVar("_Record")


class SweepRecord(Settings):
    """`sweep.json`: which sweep this is, and its settings."""

    format: Literal[1] = Field(default=1, description="Version of the directory's layout.")
    id: Word = Field(min_length=1, description="Unique name of the sweep, kept when it moves.")
    name: Text = Field(min_length=1, description="Name that a person gave it.")
    created: AwareDatetime = Field(description="When the folder was made.")
    sweep: SweepConfig = Field(description="The sweep's settings.")


class TrialRecord(Settings):
    """`trial.json`: the settings of one trial, fixed before it starts."""

    number: CountOrZero = Field(description="Number of the trial; 0 is the reference.")
    reference: bool = Field(description="Whether it is the trial that the others are compared to.")
    parameters: FreeMapping = Field(description="Sampled values by dotted path.")
    config: TrialConfig = Field(description="All settings, the sampled ones included.")
    row: Text | None = Field(default=None, description="Row of the table that it is a trial of.")

    @property
    def name(self) -> str:
        """What people read: the row, with the seed where it is varied, or the number."""
        return trial_name(self.number, self.row, self.parameters)


def trial_name(number: int, row: str | None, parameters: Mapping[str, Any]) -> str:
    """Name a trial by its row, with the seed where it is varied, or else by its number."""
    if row is None:
        return f"trial {number}"
    return f"{row} (seed {parameters['seed']})" if "seed" in parameters else row


class TrialState(Settings):
    """`state.json`: how far a trial has come."""

    state: State = Field(description="running until it ended one way or another.")
    started: AwareDatetime = Field(description="When the trial first ran.")
    ended: AwareDatetime | None = Field(default=None, description="When it ended.")
    error: LongText | None = Field(
        default=None, description="Traceback of what ended it, if it failed."
    )

    @model_validator(mode="after")
    def _ended_unless_running(self) -> Self:
        if (self.ended is None) != (self.state == "running"):
            raise ValueError("ended must be given exactly when the trial is not running")
        return self


class CodeRecord(Settings):
    """`code.json`: by which code a trial was last run, and where."""

    version: Word = Field(description="Of the package.")
    commit: Word | None = Field(default=None, description="Of the git checkout, if it is one.")
    host: Text = Field(description="Name of the machine.")
    hardware: Text | None = Field(
        default=None, description="Model of the GPU, or what is used of the CPU; not in older ones."
    )


class SweepTrialFolder(TrialFolder):
    """A trial's folder with what the sweep knows of it; any file may be missing at any time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.record_path = path / "trial.json"
        self.state_path = path / "state.json"
        self.code_path = path / "code.json"
        self.system_path = path / "system.json"
        self.samples_path = path / "samples.json"

    def read_record(self) -> TrialRecord | None:
        """Read `trial.json`, None if absent."""
        return read_record(self.record_path, TrialRecord)

    def write_record(self, record: TrialRecord) -> None:
        """Write `trial.json` whole."""
        write_json(self.record_path, record.model_dump(mode="json"))

    def read_state(self) -> TrialState | None:
        """Read `state.json`, None if absent."""
        return read_record(self.state_path, TrialState)

    def write_state(self, state: TrialState) -> None:
        """Write `state.json` whole."""
        write_json(self.state_path, state.model_dump(mode="json"))

    def read_code(self) -> CodeRecord | None:
        """Read `code.json`, None if absent."""
        return read_record(self.code_path, CodeRecord)

    def read_system(self) -> list[dict[str, Any]]:
        """Read the load of the trial's machine, by seconds since its start, [] if absent."""
        return read_rows(self.system_path)

    def read_samples(self) -> SamplesByHost:
        """Read how many samples each host counted, by its role, {} if absent."""
        samples: SamplesByHost = read_object(self.samples_path)
        return samples

    def write_samples(self, counts: SampleCounts) -> None:
        """Write `samples.json` whole."""
        write_json(self.samples_path, counts.by_host)


class SweepDirectory:
    """Where the files of a sweep lie, and typed access to those that every reader needs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # As an argument of a command that a user is told to type.
        self.quoted = shlex.quote(str(path))
        self.record_path = path / "sweep.json"
        self.cache_path = path / "cache"
        self.trials_path = path / "trials"
        self.final_path = path / "final"
        self.leaderboard_json_path = path / "leaderboard.json"
        self.leaderboard_markdown_path = path / "leaderboard.md"
        self.page_path = path / "report.html"
        self.accuracy_figure_path = path / "figures" / "certified_accuracy.png"
        self.bundle_path = path / "bundle"
        self.queries_path = path / "queries.json"
        self.learnt_path = path / "learnt.json"
        self.mlflow_database_path = path / OWN_STORE
        self.mlflow_artifacts_path = path / OWN_ARTIFACTS
        self.driver_path = path / ".driver.lock"
        self.fences_path = path / ".driver"
        self.stop_path = path / ".stop"

    @classmethod
    def create(cls, parent: Path, sweep: SweepConfig) -> Self:
        """Make a new folder `<parent>/<name>-<UTC time>` with its `sweep.json`.

        An existing folder is never used: the next free `-2`, `-3`, … is appended.
        """
        created = now()
        directory = cls(_make_folder(parent, f"{sweep.name}-{created:%Y%m%d-%H%M%S}"))
        record = SweepRecord(id=uuid.uuid4().hex, name=sweep.name, created=created, sweep=sweep)
        directory.write_record(record)
        return directory

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open an existing sweep directory."""
        directory = cls(path)
        directory.read_record()
        return directory

    def read_record(self) -> SweepRecord:
        """Read `sweep.json`."""
        record = read_record(self.record_path, SweepRecord)
        if record is None:
            raise InputError(
                f"{self.path} is no sweep directory: it has no sweep.json. Give the folder that "
                "the sweep printed when it started."
            )
        return record

    def write_record(self, record: SweepRecord) -> None:
        """Write `sweep.json` whole."""
        write_json(self.record_path, record.model_dump(mode="json"))

    def classifier_path(self, content_hash: str) -> Path:
        """Return the folder of a classifier that trials protect."""
        return self.path / "classifiers" / content_hash

    def trial(self, number: int) -> SweepTrialFolder:
        """Return the folder of a trial, whether it exists yet or not."""
        return SweepTrialFolder(self.trials_path / str(number))

    def final(self, number: int) -> SweepTrialFolder:
        """Return the folder of a trial's retraining on all limited data, certified on test."""
        return SweepTrialFolder(self.final_path / str(number))

    def retraining(self, number: int, seed: int) -> SweepTrialFolder:
        """Return the folder of a final training from a seed: of the trial's own, its `final`."""
        record = self.trial(number).read_record()
        if record is not None and record.config.seed == seed:
            return self.final(number)
        return SweepTrialFolder(self._seeds_path(number) / str(seed))

    @property
    def undefended(self) -> SweepTrialFolder:
        """The folder of the classifier without a denoiser, certified on test."""
        return SweepTrialFolder(self.path / "undefended")

    def trial_numbers(self) -> list[int]:
        """Return the numbers of the trials that have a folder, increasing."""
        return _numbered_folders(self.trials_path)

    def final_numbers(self) -> list[int]:
        """Return the numbers of the trials that have a retraining's folder, increasing."""
        return _numbered_folders(self.final_path)

    def retrained_seeds(self, number: int) -> list[int]:
        """Return the seeds other than its own that a trial is retrained from, increasing."""
        return _numbered_folders(self._seeds_path(number))

    def training_folders(self) -> Iterator[SweepTrialFolder]:
        """Yield the folders of all trials and retrainings."""
        for number in self.trial_numbers():
            yield self.trial(number)
        for number in self.final_numbers():
            yield self.final(number)
            for seed in self.retrained_seeds(number):
                yield SweepTrialFolder(self._seeds_path(number) / str(seed))

    def _seeds_path(self, number: int) -> Path:
        return self.final(number).path / "seeds"


def now() -> datetime:
    """Return the time, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def _make_folder(parent: Path, name: str) -> Path:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        attempt = 1
        while True:
            path = parent / (name if attempt == 1 else f"{name}-{attempt}")
            try:
                path.mkdir()
                return path
            except FileExistsError:
                attempt += 1
    except OSError as error:
        raise InputError(
            f"Cannot make a sweep directory in {parent}: {error.strerror}. Give another folder."
        ) from error


def _numbered_folders(path: Path) -> list[int]:
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]*", name))


def read_record(path: Path, record_type: type[_Record]) -> _Record | None:
    """Read a JSON file as a model or a dataclass, None if absent."""
    if not path.exists():
        return None
    try:
        return TypeAdapter(record_type).validate_python(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the document"
        raise InputError(
            f"{path}: {field}: {first['msg']} (found {reprlib.repr(first['input'])}). "
            "It was written by another version or edited; restore it."
        ) from None
