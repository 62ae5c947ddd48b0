"""What a trial costs in sweeps of many trials, beside its own work: is it the same in each?

    python -m tests.benchmarks.scale --json
    python -m tests.benchmarks.scale --sizes 100,300

Sweep directories hold copies of one tiny trial that is really run, with settings and scores of
their own; what never differs are hard links. No Ray runs: what Ray itself does for a trial, and
the trial's own process, are not counted (`tests.benchmarks.overhead` measures both in small).

For each size: seconds of the wall and of this process' CPU, openings of files by Python (SQLite's
own are not seen) and listings of folders, divided by the number of trials that the work was for:

`sync`: the first sync into the sweep's own MLflow store, of all trials.
`live`: one trial more beside so many that have ended and are synced, from its proposal (by chance)
    until it is shown: searcher, scheduler, progress, and a sync after each of its three events.
`idle`: another sync without anything new, as every ten seconds of a sweep. For all trials in one,
    so that it is 0 where those that have ended cost nothing.
`audit`, `resume`, `leaderboard`: of all trials; `resume` until the first trial could start.
`dashboard`: until the server of a synced sweep could start.
`proposal`: one by TPE beside so many trials; it may grow with them.

`growth`: a trial's CPU seconds and openings at the largest size over those at the smallest.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer
from rich.console import Console

from tests.tune.many_trials import run_one_trial, with_trials, write_copy
from tests.tune.openings import counted
from tune.callbacks import SweepCallback, SweepProgress
from tune.directory import SweepDirectory, TrialState
from tune.earlier import as_finished, read_learnt
from tune.finished_trials import finished_trials
from tune.mlflow.audit import audit_sweep
from tune.mlflow.tracker import Tracker
from tune.results.leaderboard import build_leaderboard, write_leaderboard
from tune.results.ranking import certified_radii
from tune.scheduler import EVALUATION, build_scheduler
from tune.searcher import SweepSearcher
from tune.stopping import SweepStop
from tune.study import propose
from tune.sweep_file import SweepConfig
from tune.worker import METRIC, end_trial

MORE_TRIALS = 20
PROPOSALS = 3
_SIZES = "100,1000,5000"


@dataclass
class Cost:
    """What a piece of work took.

    Attributes:
        seconds: of the wall.
        cpu_seconds: of this process.
        openings: of files, by Python.
        listings: of folders.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    openings: float = 0.0
    listings: float = 0.0

    def per(self, trials: int) -> dict[str, float]:
        """Divide by a number of trials."""
        return {name: value / trials for name, value in vars(self).items()}


@contextmanager
def measured(cost: Cost) -> Iterator[None]:
    """Add what the block takes to a cost."""
    wall, cpu = time.monotonic(), time.process_time()
    with counted() as files:
        yield
    cost.seconds += time.monotonic() - wall
    cost.cpu_seconds += time.process_time() - cpu
    cost.openings += files["openings"]
    cost.listings += files["listings"]


class Live:
    """The driver of a sweep, as far as it is not Ray's, beside trials that have ended."""

    def __init__(self, directory: SweepDirectory, tracker: Tracker) -> None:
        sweep = directory.read_record().sweep
        sweep = sweep.model_copy(
            update={"search": "random", "trials": (sweep.trials or 0) + 1 + MORE_TRIALS}
        )
        self.directory, self.tracker = directory, tracker
        past, unfinished = finished_trials(directory)
        learnt = as_finished(read_learnt(directory))
        self.scheduler = build_scheduler(
            sweep.pruning, metric=METRIC, evaluations=2, past=[*learnt, *past], lag=sweep.lag
        )
        self.searcher = SweepSearcher(
            sweep, metric=METRIC, past=past, unfinished=unfinished, time_attr=EVALUATION
        )
        # As on a terminal, where all that is shown is drawn anew.
        console = Console(file=StringIO(), force_terminal=True)
        self.progress = SweepProgress(len(past) + 1 + MORE_TRIALS, 2, console, done_before=0)
        for trial in past:
            self.progress.started(trial.number, dict(trial.parameters))
            self.progress.ended(trial.number, trial.state)
        self.callback = SweepCallback(self.progress, directory, SweepStop(directory, console))

    def one_more(self, template: SweepDirectory, cost: Cost) -> None:
        """Propose a trial, let it begin, be scored and end, and show each in MLflow."""
        name = str(time.monotonic_ns())
        with measured(cost):
            suggested = self.searcher.suggest(name)
        assert isinstance(suggested, dict)
        number = suggested["number"]
        write_copy(template, self.directory, number, suggested["parameters"])
        end = self.directory.trial(number).read_state()
        assert end is not None
        self.directory.trial(number).write_state(TrialState(state="running", started=end.started))
        with measured(cost):
            self._run(name, suggested)

    def _run(self, name: str, suggested: dict[str, Any]) -> None:
        number = suggested["number"]
        [score] = self.directory.trial(number).read_reports()[-1:]
        result = {**score, EVALUATION: 2, "finished": True}
        trial = SimpleNamespace(config=suggested, last_result=result, max_failures=0)
        self.callback.on_trial_start(0, [], trial)
        self.tracker.sync()
        self.searcher.on_trial_result(name, result)
        self.scheduler.on_trial_result(None, trial, result)  # type: ignore[arg-type]
        self.callback.on_trial_result(0, [], trial, result)
        end_trial(self.directory.trial(number), "complete")
        self.tracker.sync()
        self.searcher.on_trial_complete(name, result)
        self.callback.on_trial_complete(0, [], trial)
        self.tracker.sync()


def costs(template: SweepDirectory, parent: Path, trials: int) -> dict[str, dict[str, float]]:
    """Measure everything at one size."""
    directory = with_trials(template, parent, sweep_of(template, trials), trials)
    return {
        **_synced(template, directory, trials),
        "proposal": _proposal(directory, trials).per(PROPOSALS),
    }


def sweep_of(template: SweepDirectory, trials: int) -> SweepConfig:
    """Return the template's sweep, of so many trials by TPE with pruning."""
    document = template.read_record().sweep.model_dump(mode="json")
    changes = {"search": "tpe", "trials": trials, "pruning": {"enabled": True}}
    return SweepConfig.model_validate({**document, **changes})


def _synced(
    template: SweepDirectory, directory: SweepDirectory, trials: int
) -> dict[str, dict[str, float]]:
    first, idle, live, dashboard, audit = Cost(), Cost(), Cost(), Cost(), Cost()
    resume, leaderboard = Cost(), Cost()
    tracker = Tracker(directory)
    tracker.experiment_id()
    with measured(first):
        tracker.sync()
    with measured(dashboard):
        started = Tracker(directory)
        started.sync()
        started.experiment_id()
    with measured(audit):
        found = audit_sweep(directory)
    assert not found.problems, found.problems[:3]
    with measured(resume):
        driver = Live(directory, tracker)
    with measured(leaderboard):
        board = build_leaderboard(directory, certified_radii(directory), top=3)
        write_leaderboard(directory, board)
    directory.leaderboard_json_path.unlink()
    tracker.sync()
    with measured(idle):
        tracker.sync()
    # The first lists all runs, for another process has synced: that is what `dashboard` costs.
    driver.one_more(template, Cost())
    for _ in range(MORE_TRIALS):
        driver.one_more(template, live)
    return {
        "sync": first.per(trials),
        "idle": idle.per(1),
        "live": live.per(MORE_TRIALS),
        "audit": audit.per(trials),
        "resume": resume.per(trials),
        "leaderboard": leaderboard.per(trials),
        "dashboard": dashboard.per(trials),
    }


def _proposal(directory: SweepDirectory, trials: int) -> Cost:
    cost = Cost()
    past, _ = finished_trials(directory)
    sweep = directory.read_record().sweep
    for number in range(PROPOSALS):
        with measured(cost):
            propose(sweep, trials + MORE_TRIALS + number, past, {})
    return cost


def growth(by_size: dict[int, dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Return a trial's cost at the largest size over that at the smallest."""
    few, many = by_size[min(by_size)], by_size[max(by_size)]
    return {
        work: {
            name: many[work][name] / few[work][name]
            for name in ("cpu_seconds", "openings")
            if few[work][name]
        }
        for work in few
    }


def main(
    sizes: Annotated[str, typer.Option(help="Numbers of trials.")] = _SIZES,
    folder: Annotated[Path | None, typer.Option(help="Where to work; a temporary one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        template = run_one_trial(Path(temporary))
        by_size = {}
        for size in map(int, sizes.split(",")):
            by_size[size] = costs(template, Path(temporary) / str(size), size)
            if not as_json:
                print(size, json.dumps(by_size[size], indent=2), flush=True)
    document = {
        "cores": len(os.sched_getaffinity(0)),
        "sizes": by_size,
        "growth": growth(by_size),
    }
    print(json.dumps(document) if as_json else json.dumps(document["growth"], indent=2))


if __name__ == "__main__":
    typer.run(main)
