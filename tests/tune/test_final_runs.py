"""Final trainings use the whole cluster."""

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


def test_final_trainings_and_the_classifier_without_a_denoiser_run_side_by_side(
    local_ray: ClusterSize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = load_sweep(str(write_sweep(tmp_path, trials=3)))
    directory = SweepDirectory.create(tmp_path / "sweeps", sweep)
    config = reference_config(sweep)
    trainings = [
        FinalTraining(
            f"trial {n}",
            TrialRecord(number=n, reference=n == 0, parameters={}, config=config),
            directory.final(n),
        )
        for n in range(3)
    ]
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
    claimed = Claims(Claim(1, 0), Claim(1, 0), max_helpers=0, max_concurrent=None)
    console = Console(file=StringIO(), width=80)
    job = SweepJob(directory.path, sweep, claimed, None)
    certify_finals(job, trainings, console, SweepStop(directory, Console(quiet=True)))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count("certified") == at_once, said
