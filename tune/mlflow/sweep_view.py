"""The run of a whole sweep in MLflow, read from the sweep's files."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from decrop.errors import InputError
from decrop.wording import counted
from tune.directory import SweepDirectory, SweepRecord, TrialState
from tune.mlflow.page import sweep_outcome
from tune.mlflow.run_view import (
    BEST_SO_FAR,
    COLOUR_TAG,
    NOTE_TAG,
    SWEEP_COLOUR,
    TRIAL_NUMBER,
    Measurement,
    RunView,
    Source,
    Stamp,
    Table,
    by_name,
    existing,
    made_by,
    modified,
    stamps_of,
)
from tune.mlflow.trial_view import TrialSource, UndefendedSource
from tune.results.leaderboard import read_leaderboard
from tune.results.tables import leaderboard_tables
from tune.space import objectives_of, reference_config, total_trials


@dataclass(frozen=True)
class SweepSource:
    """The sweep's own run: its leaderboard and the best held-out score so far."""

    directory: SweepDirectory
    record: SweepRecord
    best: "BestSoFar"
    key: str = "sweep"

    def stamps(self) -> dict[str, Stamp]:
        """Return what changes whenever a file that is shown is replaced, or one more trial ends."""
        try:
            points = len(self.best.measurements())
        except InputError:
            points = -1  # `view` says what is broken.
        return {**stamps_of(self._files()), "best so far": (points, 0, 0)}

    def view(self) -> RunView:
        """Read the sweep's own files."""
        leaderboard = self.directory.leaderboard_json_path
        ended = modified(leaderboard) if leaderboard.exists() else None
        return RunView(
            name=self.record.name,
            status="RUNNING" if ended is None else "FINISHED",
            started=self.record.created,
            ended=ended,
            parameters=self._parameters(),
            tags={
                "kind": "sweep",
                **made_by("sweep"),
                COLOUR_TAG: SWEEP_COLOUR,
                NOTE_TAG: "\n".join(sweep_outcome(self.directory, self.record)),
                **self._found(),
            },
            measurements=self.best.measurements(),
            artifacts=existing(self._files()),
            tables=self._tables(),
        )

    def _parameters(self) -> dict[str, str]:
        """Return what stays as it is, for MLflow lets no parameter change."""
        sweep, config = self.record.sweep, reference_config(self.record.sweep)
        return {
            "search": sweep.search,
            "objectives": ", ".join(sweep.objectives),
            "varied": ", ".join(sweep.space or sweep.rows),
            "sigma": f"{config.sigma:g}",
            "data": config.dataset.path or config.dataset.name,
            "limited.fraction": f"{config.limited.fraction:g}",
            "classifier": config.classifier.weights or config.classifier.source,
            "certification.procedure": config.certification.procedure,
        }

    def _found(self) -> dict[str, str]:
        """Return what changes where a sweep is given more trials."""
        found = {"trials": str(total_trials(self.record.sweep))}
        board = read_leaderboard(self.directory)
        if board is not None:
            found["best"] = f"trial {board.best.number}"
            for radius, share in board.best.result["certified_accuracy"].items():
                found[f"best.certified_accuracy_at_{radius}"] = f"{share:.4g}"
        return found

    def _files(self) -> dict[str, Path]:
        files = by_name(
            self.directory.record_path,
            self.directory.leaderboard_json_path,
            self.directory.leaderboard_markdown_path,
            self.directory.page_path,
        )
        figure = self.directory.accuracy_figure_path
        return {**files, f"figures/{figure.name}": figure}

    def _tables(self) -> dict[str, Table]:
        board = read_leaderboard(self.directory)
        if board is None:
            return {}
        ranking, certified, *_ = leaderboard_tables(board)
        return {
            "ranking_table.json": Table(ranking.head, ranking.rows),
            "leaderboard_table.json": Table(certified.head, certified.rows),
        }


class BestSoFar:
    """The best held-out value of the first objective among trials 0…n, with step n.

    What has ended is read once.
    """

    def __init__(self, directory: SweepDirectory, record: SweepRecord) -> None:
        """Begin with nothing read."""
        self._directory = directory
        self._objective = objectives_of(record.sweep)[0]
        self._read: dict[int, tuple[TrialState, dict[str, Any] | None]] = {}
        self._best: float | None = None
        self._next = 0
        self._scores: dict[int, float] = {}
        # By another metric ranks are others.
        self._ranks = record.sweep.leaderboard.by is None
        self._points: list[Measurement] = []

    def note(self, number: int, state: TrialState, result: dict[str, Any] | None) -> None:
        """Take from who has just read them a trial's state and result, for neither to be read."""
        self._read[number] = state, result

    def measurements(self) -> list[Measurement]:
        """Return the points so far.

        They end before the first trial that still runs, since that one may yet change what follows.
        """
        while (found := self._ended(self._next)) is not None:
            ended, result = found
            if result is not None:
                score = self._scores[self._next] = self._objective.score(result)
                self._best = score if self._best is None else max(self._best, score)
            if self._best is not None:
                step = self._next
                self._points.append(Measurement(BEST_SO_FAR, self._best, step, ended))
                self._points.append(Measurement(TRIAL_NUMBER, float(step), step, ended))
            del self._read[self._next]
            self._next += 1
        return self._points

    def rank(self, number: int) -> str:
        """Say which rank a trial has by held-out score among those that are complete, if any."""
        try:
            self.measurements()
        except InputError:
            return ""  # The view of what is broken says so.
        own = self._scores.get(number)
        if own is None or not self._ranks:
            return ""
        better = sum(score > own for score in self._scores.values())
        return (
            f"rank {better + 1} of {counted(len(self._scores), 'complete trial')} by held-out score"
        )

    def _ended(self, number: int) -> tuple[datetime, dict[str, Any] | None] | None:
        """Return when a trial ended, and its result if it is complete; None while it has not."""
        known = self._read.get(number)
        if known is None or known[0].ended is None:
            folder = self._directory.trial(number)
            if (state := folder.read_state()) is None:
                return None
            known = self._read[number] = state, folder.read_result()
        state, result = known
        if state.ended is None:
            return None
        return state.ended, result if state.state == "complete" else None


def sources(
    directory: SweepDirectory,
    record: SweepRecord,
    best: BestSoFar | None = None,
    but: Container[str] = (),
) -> Iterator[Source]:
    """List everything in a sweep directory that becomes a run.

    Args:
        best: what was read of trials before, if anything.
        but: keys of what is left out.
    """
    best = best or BestSoFar(directory, record)
    objectives = tuple(objectives_of(record.sweep))
    # Before, each trial that ends changes the ranks of others.
    over = directory.leaderboard_json_path.exists()
    for number in directory.trial_numbers():
        if (key := f"trials/{number}") not in but:
            folder, heard = directory.trial(number), partial(best.note, number)
            rank = partial(best.rank, number) if over else None
            yield TrialSource(key, f"trial {number}", "trial", folder, objectives, heard, rank)
    for number in directory.final_numbers():
        if (key := f"final/{number}") not in but:
            name, folder = f"final {number} (test)", directory.final(number)
            yield TrialSource(key, name, "final", folder, rank=partial(best.rank, number))
        for seed in directory.retrained_seeds(number):
            if (key := f"final/{number}/seeds/{seed}") not in but:
                name = f"final {number}, seed {seed} (test)"
                yield TrialSource(key, name, "seed", directory.retraining(number, seed))
    yield UndefendedSource(directory.undefended, directory.trial(0))
    yield SweepSource(directory, record, best)
