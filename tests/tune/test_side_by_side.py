"""Trials of a large cluster start side by side, shown with claims that wait for room."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ray.tune import Trainable
from ray.util import placement_group_table
from rich.console import Console

from tests.mlflow_server.processes import eventually
from tests.tune.runs import write_sweep
from tune.cluster import Claim, Claims, ClusterSize, Machines
from tune.directory import SweepDirectory
from tune.stopping import SweepStop
from tune.sweep import SweepStoppedError, search_trials
from tune.sweep_file import load_sweep
from tune.worker import SweepJob

SLOTS = 128
LARGE = ClusterSize((Machines(cpu=8, gpu=0, count=16),))


def test_as_many_trials_ask_for_room_at_once_as_the_cluster_runs(
    local_ray: ClusterSize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four of them have it, and run."""
    sweep = load_sweep(str(write_sweep(tmp_path, trials=1000)))
    directory = SweepDirectory.create(tmp_path / "sweeps", sweep)
    started, stop_path = tmp_path / "started", directory.stop_path
    started.mkdir()

    # It needs none of the modules that trials import for seconds.
    class Stub(Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            (started / str(config["number"])).touch()

        def step(self) -> dict[str, Any]:
            while not stop_path.exists():
                time.sleep(0.1)
            return {"objective": 0.0, "evaluation": 0, "stopped": True, "done": True}

    monkeypatch.setattr("tune.sweep.ray_tune.with_parameters", lambda trial, job: Stub)
    monkeypatch.setattr("tune.sweep.cluster_size", lambda: LARGE)
    claimed = Claims(Claim(1, 0), Claim(1, 0), max_helpers=0, max_concurrent=None)
    job = SweepJob(directory.path, sweep, claimed, None)
    stop = SweepStop(directory, Console(quiet=True))
    before = set(placement_group_table())
    seen: list[tuple[float, int]] = []

    def asked_for() -> bool:
        seen.append((time.monotonic(), len(set(placement_group_table()) - before)))
        return seen[-1][1] >= SLOTS

    def watch() -> None:
        eventually(asked_for, 120)
        eventually(lambda: len(list(started.iterdir())) >= 4, 120)
        stop.request("interrupted")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    with pytest.raises(SweepStoppedError):
        search_trials(job, Console(quiet=True), stop)
    watcher.join()
    first = next(at for at, asked in seen if asked)
    last, asked = seen[-1]
    assert asked == SLOTS
    assert last - first < 15
    assert {int(path.name) for path in started.iterdir()} >= {0, 1, 2, 3}
