"""The record of a training that MLflow shows: of a classifier, or of a rejector for a bundle."""

import shutil
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, Field

from decrop.config import LongText, Settings, Text, Word
from decrop.errors import InputError
from decrop.files import write_json
from tune.directory import now, read_record

TrainingKind = Literal["classifier", "rejector"]


class TrainingRecord(Settings):
    """`training.json`: which training this is, and how it stands."""

    id: Word = Field(min_length=1, description="Unique name of the training, kept when it goes on.")
    kind: TrainingKind
    name: Text = Field(min_length=1, description="Of its run.")
    experiment: Text = Field(min_length=1, description="Experiment of its run.")
    status: Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
    started: AwareDatetime
    ended: AwareDatetime | None = None
    error: LongText | None = Field(default=None, description="Traceback of what ended it.")


@dataclass(frozen=True)
class TrackedTraining:
    """A training that is tracked, and where its files lie.

    Attributes:
        path: the folder that people give: of the classifier, or of the bundle to be written.
    """

    kind: TrainingKind
    path: Path

    @property
    def state_path(self) -> Path:
        """Folder of what tracking keeps; beside a bundle, which goes to others."""
        if self.kind == "classifier":
            return self.path / ".tracking"
        return self.path.with_name(f".{self.path.name}.tracking")

    @property
    def record_path(self) -> Path:
        """Where the record lies."""
        return self.state_path / "training.json"

    @property
    def work_path(self) -> Path:
        """Folder that is written while it trains."""
        if self.kind == "classifier":
            return self.path
        return self.path.with_name(f"{self.path.name}.training")

    @property
    def result_path(self) -> Path:
        """File that is there once it has ended."""
        return self.path / ("report.json" if self.kind == "classifier" else "config.json")

    def read_record(self) -> TrainingRecord | None:
        """Read the record, None if absent."""
        return read_record(self.record_path, TrainingRecord)

    def write_record(self, record: TrainingRecord) -> None:
        """Write the record whole."""
        write_json(self.record_path, record.model_dump(mode="json"))

    def forget(self) -> None:
        """Remove what tracking keeps, and a folder that holds nothing else."""
        shutil.rmtree(self.state_path)
        if self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()

    def begin(self, experiment: str) -> TrainingRecord:
        """Write down that the training runs, unless it has ended, and return the record.

        A training that goes on keeps its id. One that is begun anew where an earlier one has ended
        gets another.
        """
        earlier = self.read_record()
        done = self.result_path.exists()
        if earlier is not None and (done or earlier.status != "FINISHED"):
            record = earlier
            if not done:
                going_on = {"status": "RUNNING", "ended": None, "error": None}
                record = earlier.model_copy(update=going_on)
        else:
            record = TrainingRecord(
                id=uuid.uuid4().hex,
                kind=self.kind,
                name=self.path.absolute().name,
                experiment=experiment,
                status="RUNNING",
                started=now(),
            )
        if record != earlier:
            self.write_record(record)
        return record

    def settle(self) -> None:
        """Write down that the training has ended, where its process was killed before it did."""
        record = self.read_record()
        if record is not None and record.status == "RUNNING" and self.result_path.exists():
            ended = datetime.fromtimestamp(int(self.result_path.stat().st_mtime), UTC)
            self.write_record(record.model_copy(update={"status": "FINISHED", "ended": ended}))


def training_in(path: Path) -> TrackedTraining | None:
    """Return the tracked training whose folder or bundle is at a path, None if there is none."""
    kinds: tuple[TrainingKind, ...] = ("classifier", "rejector")
    for kind in kinds:
        folder = TrackedTraining(kind, path)
        if folder.record_path.exists():
            return folder
    return None


def known_record(folder: TrackedTraining) -> TrainingRecord:
    """Read a training's record."""
    record = folder.read_record()
    if record is None:
        raise InputError(f"{folder.path} holds no training that is tracked in MLflow.")
    return record
