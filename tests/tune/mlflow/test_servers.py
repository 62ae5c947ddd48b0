"""A sweep on a server: addresses, artifacts and the command."""

from collections import Counter
from pathlib import Path

import pytest

from tests.tune.mlflow.view_makers import RUN_NAMES, Shown, write_everything
from tests.tune.sweeps import (
    make_sweep,
)
from tune.directory import SweepDirectory
from tune.mlflow.experiment import experiment_page
from tune.mlflow.tracker import Tracker


def test_the_charts_have_their_address() -> None:
    assert experiment_page("3") == (
        "/#/experiments/3/runs"
        "?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey=all-trials"
    )


@pytest.mark.slow
def test_a_moved_sweep_is_readable_through_a_server(
    full_sweep: SweepDirectory, server: str, tmp_path: Path
) -> None:
    shown = Shown.of(Tracker(full_sweep), server)
    assert shown.names() == RUN_NAMES
    trial = shown.run("trial 0")
    listed = {file.path for file in shown.client.list_artifacts(trial.info.run_id)}
    assert listed == {
        "trial.json",
        "certificates.tsv",
        "certificates.json",
        "denoiser.safetensors",
        "figures",
    }
    inner = {file.path for file in shown.client.list_artifacts(trial.info.run_id, "figures")}
    assert inner == {"figures/certified_accuracy.png"}
    for name in ("denoiser.safetensors", "figures/certified_accuracy.png"):
        fetched = shown.client.download_artifacts(trial.info.run_id, name, str(tmp_path))
        assert Path(fetched).read_bytes() == (full_sweep.trial(0).path / name).read_bytes()


@pytest.mark.slow
def test_a_sweep_is_tracked_on_a_server(server: str, tmp_path: Path) -> None:
    directory = make_sweep(tmp_path, "remote")
    write_everything(directory)
    tracker = Tracker(directory, server)
    tracker.sync()
    shown = Shown.of(tracker, server)
    assert shown.names() == RUN_NAMES - Counter(["digits"]) + Counter(["remote"])
    assert not directory.mlflow_database_path.exists()
    run_id = shown.run("trial 1").info.run_id
    for name in ("certificates.tsv", "figures/certified_accuracy.png"):
        fetched = shown.client.download_artifacts(run_id, name, str(tmp_path))
        assert Path(fetched).read_bytes() == (directory.trial(1).path / name).read_bytes()

    before = shown.everything()
    Tracker(directory, server).sync()
    assert shown.everything() == before
