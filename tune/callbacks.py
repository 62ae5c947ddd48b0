"""Ray Tune's callbacks and stopper: what a person sees while a sweep runs, and when it ends."""

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.tune import Callback, PlacementGroupFactory
from ray.tune.stopper import Stopper
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from decrop.cli.output import duration, say
from decrop.wording import counted
from tune.directory import State, SweepDirectory
from tune.results.metric import Metric
from tune.stopping import SweepStop, common_cause, death, last_line
from tune.worker import CAUSE, CROWDED_OUT, FAILED, REASON, STOPPED, end_trial

_UNFINISHED = ("running", "stopped")
# Of trials that have ended; more fill a terminal, and each is drawn anew after each event.
_ENDED_SHOWN = 20


@dataclass
class _Row:
    number: int
    state: str
    parameters: dict[str, Any]
    evaluation: int = 0
    epoch: int = 0
    score: float | None = None


@dataclass
class SweepProgress:
    """The state of the trials, drawn anew after each event.

    Shown are those that have not ended, trial 0, the best, and those that ended last.

    Attributes:
        evaluations: scores of a trial.
        done_before: trials that an earlier run finished.
        names: of trials that are rows of a table, by number.
        reference: what the settings of trial 0 are, where it is no row.
        best_before: number and score of the best trial that an earlier run completed.
    """

    total: int
    evaluations: int
    console: Console
    done_before: int = 0
    names: Mapping[int, str] = field(default_factory=dict)
    reference: str = "as given"
    objective: Metric = field(default_factory=Metric)
    best_before: tuple[int, float] | None = None
    _rows: dict[int, _Row] = field(default_factory=dict)
    _ended: list[int] = field(default_factory=list)
    _ended_before: int = 0
    _best: _Row | None = None
    _started: float = field(default_factory=time.monotonic)
    _live: Live | None = None

    def __post_init__(self) -> None:
        """Begin with the best trial of an earlier run, if there was one."""
        if self.best_before is not None:
            number, score = self.best_before
            self._best = _Row(number, "complete", {}, score=score)

    def __enter__(self) -> "SweepProgress":
        if self.console.is_terminal:
            self._live = Live(self._render(), console=self.console, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.update(self._render())
            self._live.stop()

    def started(self, number: int, parameters: dict[str, Any]) -> None:
        """A trial runs."""
        if number in self._ended:
            self._ended.remove(number)
        self._rows[number] = _Row(number, "running", parameters)
        reference = number == 0 and not self.names
        self._show(f"{self._name(number)} started{f' ({self.reference})' if reference else ''}")

    def scored(self, number: int, result: dict[str, Any]) -> None:
        """A trial has a held-out score."""
        row = self._rows[number]
        row.evaluation, row.epoch, row.score = (
            result["evaluation"],
            result["epoch"],
            self.objective.score(result),
        )
        self._show(
            f"{self._name(number)}: epoch {row.epoch}, {self.objective.phrase} "
            f"{self.objective.text(row.score)} held out"
        )

    def died(self, number: int, retry: int, retries: int) -> None:
        """A trial's process has died, and the trial waits to be taken up again."""
        self._show(
            f"{self._name(number)}: its process died; it goes on from its checkpoint "
            f"(retry {retry} of {retries})"
        )

    def crowded_out(self, number: int) -> None:
        """A trial had no memory left in its share of a GPU, and waits for a whole one."""
        self._show(
            f"{self._name(number)}: its share of a GPU's memory is too small; it goes on from its "
            "checkpoint with a GPU of its own"
        )

    def stopped(self, number: int) -> None:
        """A trial has saved its state, for the sweep is to stop."""
        self._rows.setdefault(number, _Row(number, "stopped", {})).state = "stopped"
        self._show(f"{self._name(number)} stopped; it goes on when the sweep is resumed")

    def ended(self, number: int, state: str, why: str = "") -> None:
        """A trial has ended, perhaps before it ran, and why if it is told."""
        row = self._rows.setdefault(number, _Row(number, state, {}))
        row.state = state
        self._ended.append(number)
        # Scores of unfinished trials rest on fewer samples and are not comparable.
        if state == "complete" and _worth(row) > _worth(self._best):
            self._best = row
        self._forget_one()
        self._show(f"{self._name(number)} {state}{why and f' ({why})'}; {self._summary()}")

    def _forget_one(self) -> None:
        """Let a row go once there are too many."""
        if len(self._ended) > _ENDED_SHOWN:
            kept = (0, None if self._best is None else self._best.number)
            number = next(number for number in self._ended if number not in kept)
            self._ended.remove(number)
            self._ended_before += 1
            del self._rows[number]

    def _name(self, number: int) -> str:
        return self.names.get(number, f"trial {number}")

    def _show(self, line: str) -> None:
        if self._live is not None:
            self._live.update(self._render())
        else:
            say(line, self.console)

    def _summary(self) -> str:
        done = self.done_before + self._ended_before + len(self._ended)
        text = f"{done} of {counted(self.total, 'trial')} done"
        best = self._best
        if best is not None and best.score is not None:
            text += (
                f", best so far {self._name(best.number)} with {self.objective.text(best.score)}"
            )
        left = self._seconds_left()
        return f"{text}, about {duration(left)} left" if left else text

    def _seconds_left(self) -> float | None:
        if not self._ended:
            return None
        work = self._ended_before + sum(
            1.0 if row.state not in _UNFINISHED else row.evaluation / self.evaluations
            for row in self._rows.values()
        )
        return (time.monotonic() - self._started) * (self.total - self.done_before - work) / work

    def _render(self) -> Group:
        table = Table(title="Trials", expand=False)
        score_head = f"{self.objective.phrase}, held out"
        for name in ("trial", "state", "epoch", score_head, "settings"):
            table.add_column(name, no_wrap=name != "settings", overflow="ellipsis")
        for number in sorted(self._rows):
            row = self._rows[number]
            score = "" if row.score is None else self.objective.text(row.score)
            reference = number == 0 and not self.names
            settings = self.reference if reference else _settings(row.parameters)
            table.add_row(
                self.names.get(number, str(number)),
                row.state,
                str(row.epoch or ""),
                score,
                settings,
            )
        return Group(table, Text(self._summary()))


def _worth(row: _Row | None) -> float:
    return -math.inf if row is None else row.score or 0.0


# Of a trial or a final training whose process was killed or had no memory left; one that failed by
# itself gets none.
RETRIES = 3
# So many trials that fail one after another have a cause that the next one has too.
FAILURES_IN_A_ROW = 10


class SweepCallback(Callback):
    """Shows and writes down what only Ray Tune knows of trials, and ends the search for failures.

    Attributes:
        cause: what many trials in a row failed with, or why one cannot go on for a reason that is
            not its own; None unless it ended the search.
    """

    def __init__(self, progress: SweepProgress, directory: SweepDirectory, stop: SweepStop) -> None:
        self.cause: str | None = None
        self._progress = progress
        self._directory = directory
        self._stop = stop
        self._running: set[int] = set()
        self._deaths: Counter[int] = Counter()
        self._crowded_out: set[int] = set()
        self._errors: list[str] = []

    def __getstate__(self) -> dict[str, Any]:
        """Leave everything out: Ray Tune pickles callbacks to a directory nobody reads again."""
        return {}

    @property
    def anything_runs(self) -> bool:
        """Whether a trial has begun and not ended."""
        return bool(self._running)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show a trial that starts, or starts again."""
        self._running.add(trial.config["number"])
        self._progress.started(trial.config["number"], trial.config["parameters"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Show a score; let a trial that failed by itself not be taken up again.

        One that others have left too little memory is, by a process that has a GPU to itself.
        """
        if result.get(FAILED):
            trial.max_failures = 0
        elif result.get(CROWDED_OUT):
            self._crowded_out.add(trial.config["number"])
            claimed = trial.placement_group_factory.required_resources
            trial.placement_group_factory = PlacementGroupFactory([{**claimed, "GPU": 1}])
        elif not result.get(STOPPED):
            self._progress.scored(trial.config["number"], result)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show that a trial whose process died, or that was crowded out, is taken up again."""
        number = trial.config["number"]
        if number in self._crowded_out:
            self._crowded_out.discard(number)
            self._progress.crowded_out(number)
            return
        self._deaths[number] += 1
        self._progress.died(number, self._deaths[number], trial.max_failures)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show how a trial ended; one that the scheduler stopped does not know it itself."""
        number, last = trial.config["number"], trial.last_result
        self._running.discard(number)
        if last.get(STOPPED):
            if REASON in last:
                self.cause = last[CAUSE]
                self._stop.request(last[REASON])
            self._progress.stopped(number)
            return
        self._errors.clear()
        state: State = "complete" if last.get("finished") is True else "pruned"
        if state == "pruned":
            end_trial(self._directory.trial(number), state)
        self._progress.ended(number, state)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show a failure, which a trial whose process died could not write down; count it."""
        number = trial.config["number"]
        self._running.discard(number)
        folder = self._directory.trial(number)
        state = folder.read_state()
        error = None if state is None else state.error
        if state is None or state.state == "running":
            error = death(str(trial.get_error() or ""), self._deaths[number] + 1)
            end_trial(folder, "failed", error=error)
        error = error or "unknown error"
        self._progress.ended(number, "failed", f"{last_line(error)}: see {folder.state_path}")
        self._errors.append(error)
        if len(self._errors) >= FAILURES_IN_A_ROW:
            message, count = common_cause(self._errors)
            self.cause = (
                f"the last {len(self._errors)} trials failed, {count} of them with: {message}"
            )
            self._stop.request("failures")


class SearchStopper(Stopper):
    """Ends the search once it is to stop and all trials have saved their state, or cannot."""

    def __init__(self, stop: SweepStop, callback: SweepCallback) -> None:
        self._stop = stop
        self._callback = callback

    def __getstate__(self) -> dict[str, Any]:
        """Leave everything out, as the callback does."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Let each trial end by itself."""
        return False

    def stop_all(self) -> bool:
        """Tell whether the search is over."""
        return self._stop.due() and (not self._callback.anything_runs or self._stop.overdue())


def _settings(parameters: dict[str, Any]) -> str:
    return ", ".join(
        f"{path.rsplit('.', 1)[-1]} {value:.3g}"
        if isinstance(value, float)
        else f"{path.rsplit('.', 1)[-1]} {value}"
        for path, value in parameters.items()
    )
