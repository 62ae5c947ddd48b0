"""Final trainings use the whole cluster."""

import os
import signal
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from decrop.config import TrialConfig
from tests.tune.runs import write_sweep
from tune.cluster import Claim, Claims, ClusterSize
from tune.directory import SweepDirectory, TrialRecord
from tune.final_runs import FinalTraining, certify_finals
from tune.space import reference_config
from tune.stopping import SweepStop
from tune.sweep_file import load_sweep
from tune.worker import SweepJob


def finals_of(folder: Path, count: int) -> tuple[SweepJob, list[FinalTraining]]:
    sweep = load_sweep(str(write_sweep(folder, trials=3)))
    directory = SweepDirectory.create(folder / "sweeps", sweep)
    config = reference_config(sweep)
    trainings = [
        FinalTraining(
            f"trial {n}",
            TrialRecord(number=n, reference=n == 0, parameters={}, config=config),
            directory.final(n),
        )
        for n in range(count)
    ]
    claimed = Claims(Claim(1, 0), Claim(1, 0), max_helpers=0, max_concurrent=None)
    return SweepJob(directory.path, sweep, claimed, None), trainings


def certified(job: SweepJob, trainings: list[FinalTraining]) -> str:
    """Return what is said meanwhile."""
    console = Console(file=StringIO(), width=80)
    certify_finals(job, trainings, console, SweepStop(job.directory, Console(quiet=True)))
    said: str = console.file.getvalue()  # type: ignore[attr-defined]
    return said


def test_one_whose_process_dies_is_taken_up_again_three_times(
    local_ray: ClusterSize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, trainings = finals_of(tmp_path, 3)
    begun = tmp_path / "begun"
    begun.mkdir()

    def final(job: SweepJob, training: FinalTraining) -> bool:
        before = len(list(begun.glob(f"{training.name} *")))
        (begun / f"{training.name} {before}").touch()
        if training.name == "trial 2":
            raise ValueError("by itself")
        if training.name == "trial 1" or before < 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    monkeypatch.setattr("tune.final_runs._final", final)
    monkeypatch.setattr("tune.final_runs._undefended", lambda job, config: True)
    said = certified(job, trainings).splitlines()
    died = "its process died; it goes on from what it has written (retry"
    assert [line for line in said if "trial 0" in line] == [
        f"trial 0: {died} 1 of 3)",
        next(line for line in said if line.startswith("trial 0 certified (")),
    ]
    state_path = trainings[1].folder.state_path
    assert [line for line in said if "trial 1" in line] == [
        *(f"trial 1: {died} {n} of 3)" for n in (1, 2, 3)),
        "trial 1 failed: the trial's process died 4 times: it was killed, or had no memory left: "
        f"see {state_path}",
    ]
    # What Ray says of it is there, in several lines.
    state = trainings[1].folder.read_state()
    assert state is not None and state.state == "failed"
    assert state.error is not None and len(state.error.splitlines()) > 1
    (failed,) = (line for line in said if "trial 2" in line)
    assert failed.startswith("trial 2 failed: ValueError: by itself: see ")
    assert len(list(begun.glob("trial 2 *"))) == 1
    assert len(said) == 2 + 4 + 1 + 1


def test_final_trainings_and_the_classifier_without_a_denoiser_run_side_by_side(
    local_ray: ClusterSize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, trainings = finals_of(tmp_path, 3)
    begun, at_once = tmp_path / "begun", len(trainings) + 1
    begun.mkdir()
    assert local_ray.cpu >= at_once

    def meets_the_others(name: str) -> bool:
        (begun / name).touch()
        until = time.monotonic() + 60
        while len(list(begun.iterdir())) < at_once and time.monotonic() < until:
            time.sleep(0.05)
        return len(list(begun.iterdir())) == at_once

    def final(job: SweepJob, training: FinalTraining) -> bool:
        return meets_the_others(training.name)

    def undefended(job: SweepJob, config: TrialConfig) -> bool:
        return meets_the_others("no denoiser")

    monkeypatch.setattr("tune.final_runs._final", final)
    monkeypatch.setattr("tune.final_runs._undefended", undefended)
    said = certified(job, trainings)
    assert said.count("certified") == at_once, said
