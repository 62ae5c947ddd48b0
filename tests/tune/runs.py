"""Tiny real sweeps, run as commands in this process on the tests' Ray."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from decrop.cli.main import run
from decrop.documents import merge
from tune.cluster import ClusterSize
from tune.directory import SweepDirectory

# Four trials, three of them found by chance: what trial n tries depends on n and the seed alone.
TINY: dict[str, Any] = {
    "name": "tiny",
    "base": "digits",
    "search": "random",
    "search_seed": 1,
    "trials": 4,
    "trial": {
        "limited": {"fraction": 0.08},
        "classifier": {"training": {"epochs": 2}},
        "boundary": {"steps": 2},
        "interpolation": {"steps": 2},
        "denoiser": {"depth": 3, "channels": 4},
        "training": {"epochs": 2, "discriminator_epochs": 1, "evaluations": 2},
        "certification": {
            "selection_samples": 20,
            "estimation_samples": 100,
            "held_out_samples": 100,
            "pruning_samples": 20,
            "test_images": 20,
        },
    },
    "space": {
        "training.loss_weights.cosine": {"uniform": [0, 8]},
        "interpolation.count": {"choice": [1, 2]},
    },
    "pruning": {"enabled": False},
    "resources": {"trial": {"cpu": 2}, "helper": {"cpu": 1}, "max_helpers": 1},
    "leaderboard": {"top": 2},
}


@dataclass(frozen=True)
class Ran:
    """What a command left behind in the terminal."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> dict[str, Any]:
        """The JSON object that `--json` prints last."""
        document = json.loads(self.out.splitlines()[-1])
        assert isinstance(document, dict)
        return document


@dataclass(frozen=True)
class FinishedSweep:
    """A sweep that has ended well; nothing may be changed in its directory."""

    ran: Ran
    directory: SweepDirectory


def decrop(*arguments: object) -> Ran:
    """Run the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run([str(argument) for argument in arguments])
    return Ran(code, out.getvalue(), err.getvalue())


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


def contents(*folders: Path) -> dict[Path, bytes]:
    """Return the bytes of all files below folders."""
    return {
        path: path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }
