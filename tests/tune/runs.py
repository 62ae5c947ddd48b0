"""Tiny real sweeps, run as commands in this process on the tests' Ray."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient

from decrop.documents import merge
from tests.commands import Ran, decrop
from tests.mlflow_server.processes import is_alive
from tune.cluster import ClusterSize
from tune.directory import SweepDirectory

# A second or two of work.
TINY_TRIAL: dict[str, Any] = {
    "limited": {"fraction": 0.08},
    "classifier": {"training": {"epochs": 2}},
    "boundary": {"steps": 2},
    "interpolation": {"steps": 2},
    "denoiser": {"depth": 3, "channels": 4},
    "training": {"epochs": 2, "discriminator_epochs": 1, "evaluations": 2},
    "certification": {
        "selection_samples": 20,
        "max_samples": 120,
        "held_out_samples": 100,
        "pruning_samples": 20,
        "test_images": 20,
    },
}

# Four trials, three of them found by chance: what trial n tries depends on n and the seed alone.
TINY: dict[str, Any] = {
    "name": "tiny",
    "base": "digits",
    "search": "random",
    "search_seed": 1,
    "trials": 4,
    "trial": TINY_TRIAL,
    "space": {
        "training.loss_weights.cosine": {"uniform": [0, 8]},
        "interpolation.count": {"choice": [1, 2]},
    },
    "pruning": {"enabled": False},
    # One trial at a time, with room for a helper and for two final trainings.
    "resources": {
        "trial": {"cpu": 1.5},
        "helper": {"cpu": 1},
        "max_helpers": 1,
        "max_concurrent": 1,
    },
    "leaderboard": {"top": 2},
}


# As a terminal starts it: a shell may have told its background processes to ignore Ctrl-C.
COMMAND = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from decrop.cli import main; main()",
]


@dataclass(frozen=True)
class FinishedSweep:
    """A sweep that has ended well; nothing may be changed in its directory."""

    ran: Ran
    directory: SweepDirectory


def started(*arguments: object) -> subprocess.Popen[str]:
    """Start the command as a process in a session of its own, what it prints in one pipe."""
    return subprocess.Popen(
        [*COMMAND, *(str(argument) for argument in arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def session(leader: int) -> set[int]:
    """Return the processes that run in the session of a started command, itself included."""
    members = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == leader and is_alive(int(folder.name)):
                members.add(int(folder.name))
        except ProcessLookupError:
            continue
    return members


def end_session(leader: int) -> None:
    """Kill what is left of the processes that a started command has started."""
    for pid in session(leader):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def running_on(size: ClusterSize) -> Iterator[None]:
    """Let sweeps use the Ray that runs already instead of starting one each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tune.sweep.cluster", lambda address: nullcontext(size))
        yield


def write_sweep(folder: Path, document: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Write a sweep file: TINY, or another, with nested changes; a changed space replaces."""
    whole = merge(document or TINY, changes)
    if "space" in changes:
        whole["space"] = changes["space"]
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(whole))
    return path


def only_sweep(parent: Path) -> SweepDirectory:
    """Open the one sweep directory in a folder."""
    (path,) = parent.iterdir()
    return SweepDirectory.open(path)


# What tracking writes in a sweep directory, also where nothing is new.
TRACKING_FILES = {"mlflow.db", ".tracking.writer"}


def tracked_runs(directory: SweepDirectory) -> Counter[str]:
    """Count the runs in a sweep's own MLflow store by what they show: `trials/0`, `final/0`, …"""
    client = MlflowClient(f"sqlite:///{directory.mlflow_database_path}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, run_view_type=ViewType.ALL)
    return Counter(run.data.tags["decrop.key"].partition("/")[2] for run in runs)


def finished_sweep(local_ray: ClusterSize, file: Path) -> FinishedSweep:
    """Run a sweep to its end, in the folder of its file."""
    parent = file.parent / "sweeps"
    with running_on(local_ray):
        ran = decrop("sweep", file, "--out", parent, "--json")
    assert ran.code == 0, ran.out + ran.err
    return FinishedSweep(ran, only_sweep(parent))
