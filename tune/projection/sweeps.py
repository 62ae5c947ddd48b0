"""What MLflow should show of a sweep as a whole, read from its files."""

from dataclasses import dataclass
from pathlib import Path

from decrop.files import read_text
from tune.directory import SweepDirectory, SweepRecord
from tune.projection.colours import COLOUR_TAG, SWEEP_COLOUR
from tune.projection.figures import search_figures
from tune.projection.names import BEST_SO_FAR, TRIAL_NUMBER
from tune.projection.tables import Table, markdown_tables
from tune.projection.view import (
    Measurement,
    RunView,
    Stamp,
    by_name,
    existing,
    is_number,
    modified,
    stamps_of,
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
        return stamps_of(paths)

    def view(self) -> RunView:
        """Read the sweep's own files and every trial's state and result.

        Raises:
            InputError: one of them is broken.
        """
        leaderboard = self.directory.leaderboard_json_path
        ended = modified(leaderboard) if leaderboard.exists() else None
        return RunView(
            name=self.record.name,
            status="RUNNING" if ended is None else "FINISHED",
            started=self.record.created,
            ended=ended,
            tags={"kind": "sweep", COLOUR_TAG: SWEEP_COLOUR},
            measurements=best_so_far(self.directory),
            artifacts=existing(self._files()),
            # Trials are still to come before that, and the page's charts show those that are there.
            drawn={} if ended is None else search_figures(self.directory, self.record),
            tables=self._tables(),
        )

    def _files(self) -> dict[str, Path]:
        files = by_name(
            self.directory.record_path,
            self.directory.leaderboard_json_path,
            self.directory.leaderboard_markdown_path,
        )
        figure = self.directory.accuracy_figure_path
        return {**files, f"figures/{figure.name}": figure}

    def _tables(self) -> dict[str, Table]:
        path = self.directory.leaderboard_markdown_path
        found = markdown_tables(read_text(path)) if path.exists() else []
        # The ranking of all trials, then certified accuracies.
        names = ("ranking_table.json", "leaderboard_table.json")[-len(found[:2]) :]
        return dict(zip(names, found, strict=False)) if found else {}


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
        if state.state == "complete" and is_number(score):
            best = float(score) if best is None else max(best, float(score))
        if best is not None:
            points.append(Measurement(BEST_SO_FAR, best, number, state.ended))
            points.append(Measurement(TRIAL_NUMBER, float(number), number, state.ended))
    return points
