"""A real sweep of fixed trials, run as its user would, and what it must leave behind."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from decrop.documents import merge
from tests.commands import decrop
from tests.mlflow_server.processes import descendants, eventually, is_alive
from tests.tune.runs import TINY_TRIAL, end_session, only_sweep, started, write_sweep
from tune.directory import SweepDirectory

TRIALS = 3
# Titles that Ray gives to its processes while they work.
TRIAL_PROCESS, HELPER_PROCESS = "ray::ResourceTrainable", "ray::_sample_lease"
# Trial 0 and the two points of a grid, one at a time, each certified for seconds with a helper.
FIXED: dict[str, Any] = {
    "name": "fixed",
    "base": "digits",
    "search": "grid",
    "trial": merge(TINY_TRIAL, {"certification": {"max_samples": 200, "held_out_samples": 10_000}}),
    "space": {"training.loss_weights.cosine": {"choice": [0, 8]}},
    "pruning": {"enabled": False},
    "resources": {
        "trial": {"cpu": 1},
        "helper": {"cpu": 1},
        "max_helpers": 1,
        "max_concurrent": 1,
    },
    "leaderboard": {"top": 1},
}

# An event of a sweep on a busy machine.
_EVENT_SECONDS = 240
_END_SECONDS = 480

# Columns of certificates by their file, without the time.
Certificates = dict[str, list[list[str]]]


class Sweep:
    """A sweep that a command runs in a process of its own, with a Ray of its own.

    Attributes:
        parent: the folder in which the command makes the sweep's own.
        printed: what the command has said, once it has ended.
        seconds: that its commands ran, without the time that a trial was held.
    """

    def __init__(self, parent: Path) -> None:
        self.parent = parent
        self.printed = ""
        self.seconds = 0.0
        self._process: subprocess.Popen[str]
        self._started: float

    @property
    def directory(self) -> SweepDirectory:
        """The sweep directory."""
        return only_sweep(self.parent)

    @property
    def driver(self) -> int:
        """The process of the command that runs, or ran last."""
        return self._process.pid

    @contextmanager
    def running(self, *arguments: object) -> Iterator[None]:
        """Run a command on the sweep for a block, in which it must end or be killed."""
        self._process = started(*arguments)
        self._started = time.monotonic()
        try:
            yield
        finally:
            end_session(self._process.pid)
            self._process.communicate()

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait for something that happens while the command runs."""
        assert eventually(lambda: happened() or not self._runs(), _EVENT_SECONDS)
        assert self._runs(), self._process.communicate()[0]

    def until_report(self, number: int) -> None:
        """Wait for the first score of a trial, after which it is trained and certified further."""
        path = f"*/trials/{number}/reports.json"
        self.until(lambda: any(self.parent.glob(path)))

    def process(self, title: str) -> int:
        """Wait for a process of the sweep that works under a title of Ray's; return its id."""
        found: list[int] = []

        def appeared() -> bool:
            below = descendants(self._process.pid)
            found.extend(pid for pid, command in below.items() if command.startswith(title))
            return bool(found)

        self.until(appeared)
        return found[0]

    def kill(self, title: str) -> None:
        """Kill a process that works under a title of Ray's."""
        pid = self.process(title)
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: not is_alive(pid), 10)

    def kill_driver(self) -> None:
        """Kill the command itself; whatever works for it ends by itself."""
        below = descendants(self._process.pid)
        self._process.kill()
        self._process.wait()
        self.seconds += time.monotonic() - self._started
        working = [
            pid
            for pid, command in below.items()
            if command.startswith(TRIAL_PROCESS) or "raylet" in command
        ]
        assert working and eventually(lambda: not any(map(is_alive, working)), 30)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the trial that runs wait for the length of a block, and the clock too."""
        pid = self.process(TRIAL_PROCESS)
        os.kill(pid, signal.SIGSTOP)
        before = time.monotonic()
        try:
            yield
        finally:
            self._started += time.monotonic() - before
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def end(self, code: int = 0) -> None:
        """Wait until the command has ended, with a code."""
        self.printed, _ = self._process.communicate(timeout=_END_SECONDS)
        self.seconds += time.monotonic() - self._started
        assert self._process.returncode == code, self.printed
        assert "Traceback" not in self.printed, self.printed

    def certificates(self) -> Certificates:
        """Return all that was certified, but for the time that it took."""
        root = self.directory.path
        return {
            path.relative_to(root).as_posix(): _without_time(path)
            for path in root.rglob("certificates.tsv")
            # Copies, under the ids of MLflow's runs.
            if root / "mlflow-artifacts" not in path.parents
        }

    def _runs(self) -> bool:
        return self._process.poll() is None


def write_fixed(folder: Path) -> Path:
    """Write the file of the sweep."""
    return write_sweep(folder, FIXED)


def must_equal(sweep: Sweep, undisturbed: Sweep, *tracking: object) -> None:
    """Assert that a sweep has ended as if nothing had happened, in its files and in MLflow."""
    audited = decrop("audit", sweep.directory.path, "--json", *tracking)
    assert audited.code == 0, audited.out
    assert audited.last_line == {
        "trials": TRIALS,
        "lost": 0,
        "doubled": 0,
        "metric_mismatches": 0,
    }
    assert sweep.directory.leaderboard_json_path.exists()
    assert sweep.certificates() == undisturbed.certificates()


def _without_time(path: Path) -> list[list[str]]:
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    time_column = rows[0].index("time")
    return [row[:time_column] + row[time_column + 1 :] for row in rows]
