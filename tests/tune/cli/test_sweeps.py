"""The commands of sweeps: what they print, how they exit, and what bad input leaves behind."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from safetensors.torch import save_file

from decrop.cli.output import console, duration
from tests.cases import cases
from tests.commands import contents, decrop, refused
from tests.mlflow_server.processes import free_port
from tests.tune.runs import FinishedSweep, tracked_runs, write_sweep
from tests.tune.sweeps import write_board
from tune.cli import app
from tune.cli.sweeps import _show_outcome
from tune.directory import SweepDirectory
from tune.sweep import RunOptions, SweepOutcome
from tune.sweep_file import load_sweep

COMMANDS = sorted(
    command.callback.__name__ for command in app.registered_commands if command.callback
)


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray is started")

    monkeypatch.setattr(ray, "init", start)


@pytest.fixture
def copied(finished: FinishedSweep, tmp_path: Path) -> SweepDirectory:
    shutil.copytree(finished.directory.path, tmp_path / "copied")
    return SweepDirectory.open(tmp_path / "copied")


@cases("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    ran = decrop(command, "--help")
    assert ran.code == 0
    assert f"Example: decrop {command} " in " ".join(ran.out.split())


def test_commands_import_what_they_need_only(finished: FinishedSweep) -> None:
    script = (
        "import sys; from decrop.cli.main import run; assert run(['--help']) == 0; "
        "slow = {'ray', 'mlflow', 'optuna'}; "
        "assert not (slow | {'torch'}) & set(sys.modules), set(sys.modules); "
        f"assert run(['leaderboard', {str(finished.directory.path)!r}]) == 0; "
        "assert not slow & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_a_sweep_ends_with_its_outcome_as_json(finished: FinishedSweep) -> None:
    said, directory = finished.ran.last_line, finished.directory
    assert set(said) == {
        *("sweep_dir", "bundle", "report", "experiment_url", "trials", "stage1_computed"),
        *("best", "reference", "undefended"),
    }
    assert said["sweep_dir"] == str(directory.path)
    assert said["bundle"] == str(directory.bundle_path)
    page = directory.page_path.read_text()
    assert said["report"] == str(directory.page_path) and directory.path.name in page
    assert said["experiment_url"].startswith("http://127.0.0.1:5000/#/experiments/1/runs?")
    assert said["trials"] == 4
    for name, trial in (("best", None), ("reference", 0), ("undefended", None)):
        entry = said[name]
        accuracy = entry["certified_accuracy"]
        assert list(accuracy) == ["0.0", "0.25", "0.5", "0.75"]
        assert all(0 <= value <= 1 for value in accuracy.values())
        if trial is not None:
            assert entry["trial"] == trial
    assert said["undefended"]["trial"] is None
    lines = finished.ran.out.splitlines()
    assert lines[0] == f"sweep directory: {directory.path}"
    for line in (
        f"bundle:    {directory.bundle_path}",
        f"verify:    decrop verify {directory.bundle_path}",
        f"report:    {directory.page_path}",
        f"dashboard: decrop dashboard {directory.path}",
        f"opens at:  {said['experiment_url']}",
    ):
        assert line in lines
    assert finished.ran.err == ""
    assert "\x1b" not in finished.ran.out


def test_what_a_server_tracks_opens_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = SweepDirectory.create(tmp_path, load_sweep(str(write_sweep(tmp_path)), []))
    outcome = SweepOutcome(directory, write_board(directory), "7", 2, 1, warning=None)
    monkeypatch.setattr("tune.cli.sweeps._verify_command", lambda _: "decrop verify BUNDLE")
    for server in ("http://127.0.0.1:9/", None):
        _show_outcome(lambda: outcome, RunOptions(console, tracking_uri=server), as_json=True)
        said = capsys.readouterr().out
        at = server or "http://127.0.0.1:5000/"
        assert f"opens at:  {at}#/experiments/7/" in said
        assert f'"experiment_url": "{at}#/experiments/7/' in said
        assert ("dashboard:" in said) is (server is None)


def test_dry_run_says_what_would_run_and_starts_nothing(no_ray: None, tmp_path: Path) -> None:
    file = write_sweep(tmp_path)
    ran = decrop("sweep", file, "--out", tmp_path / "out", "--trials", 1, "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert set(ran.last_line) == {
        *("trials", "at_once", "finals", "generated_images", "training_images"),
        *("classifier_images", "noisy_samples", "queries", "hours"),
    }
    assert ran.last_line["trials"] == 1
    assert "tiny: 1 trial by random, 1 at once on " in ran.out
    # What there is nothing of is not listed.
    assert ran.last_line["generated_images"] == 0 and "generated images" not in ran.out
    assert f"{ran.last_line['noisy_samples']:,} noisy samples" in ran.out
    assert f"roughly {duration(3600 * ran.last_line['hours'])} on this machine" in ran.out
    assert "nothing was started" in ran.out
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def misfit(folder: Path) -> Path:
    save_file({"conv.weight": torch.zeros(3, 3)}, folder / "misfit.safetensors")
    return folder / "misfit.safetensors"


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--set", "trainig.epochs=3"], "trainig"),
        (["--set", "training.epochs=0"], "training.epochs"),
        (["--set", "space.training.learning_rate={uniform: [-1, 1]}"], "learning_rate"),
        (["--set", "space.boundary.epsilon={uniform: [0.1, 1.5]}"], "epsilon"),
        (["--set", "dataset.name=cifar10", "--set", "dataset.path=HERE/none"], "HERE/none"),
        (
            [
                *("--set", "classifier.training=null"),
                *("--set", "classifier.weights=HERE/misfit.safetensors"),
            ],
            "HERE/misfit.safetensors",
        ),
        (
            ["--set", "classifier.training=null", "--set", "classifier.weights=HERE/none"],
            "HERE/none",
        ),
        (["--set", "limited.fraction=0.0005"], "limited.fraction 0.0005"),
        (["--set", "space.limited.fraction={uniform: [0.1, 0.2]}"], "same in all trials"),
        (["--set", "resources.trial.cpu=1000"], "resources.trial.cpu = 1000"),
        (["--set", "resources.helper.gpu=99"], "resources.helper.gpu = 99"),
        (["--trials", "0"], "trials"),
        (["--address", "127.0.0.1"], "--address 127.0.0.1"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    no_ray: None, tmp_path: Path, options: list[str], named: str, dry_run: bool
) -> None:
    file = write_sweep(tmp_path)
    misfit(tmp_path)
    before = contents(tmp_path)
    given = [option.replace("HERE", str(tmp_path)) for option in options]
    arguments = ["sweep", file, "--out", tmp_path / "out", *given]
    said = refused(*arguments, *(["--dry-run"] if dry_run else []))
    assert named.replace("HERE", str(tmp_path)) in said
    assert contents(tmp_path) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "uri", ["mlflow.example", "ftp://127.0.0.1", "http://", "http://me:secret@127.0.0.1:5000"]
)
def test_a_wrong_tracking_uri_is_refused_before_anything_is_made(
    no_ray: None, tmp_path: Path, uri: str
) -> None:
    file = write_sweep(tmp_path)
    said = refused("sweep", file, "--out", tmp_path / "out", "--tracking-uri", uri)
    assert "racking URI" in said
    assert "secret" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["none.yaml", "nonesuch"])
def test_a_sweep_that_is_not_there_is_refused(no_ray: None, tmp_path: Path, name: str) -> None:
    assert name in refused("sweep", name, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_address_without_a_cluster_is_refused(no_ray: None, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    arguments = ["sweep", write_sweep(tmp_path), "--out", tmp_path / "out", "--address", address]
    assert f"--address {address}: no Ray cluster answers there" in refused(*arguments)
    assert f"--address {address}: no Ray cluster" in refused(*arguments, "--dry-run")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "command",
    [
        *("resume", "resume --trials 9", "leaderboard", "report", "sync", "dashboard"),
        *("audit", "clean", "export", "export --trial 1"),
    ],
)
def test_what_is_no_sweep_directory_is_refused(no_ray: None, tmp_path: Path, command: str) -> None:
    name, *options = command.split()
    if name == "export":
        options += ["--to", str(tmp_path / "bundle")]
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "none"):
        assert refused(name, path, *options).startswith(f"error: {path} is no sweep directory")
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_sync_catches_up_once(copied: SweepDirectory) -> None:
    expected = tracked_runs(copied)
    folder = copied.trial(1).path
    shutil.copytree(folder, copied.trial(4).path)
    record = copied.trial(4).read_record()
    assert record is not None
    copied.trial(4).write_record(record.model_copy(update={"number": 4}))
    for _ in range(2):
        ran = decrop("sync", copied.path)
        assert (ran.code, ran.out.strip()) == (0, "MLflow is up to date")
        assert tracked_runs(copied) == expected + type(expected)({"trials/4": 1})


def test_sync_says_that_a_server_is_away(copied: SweepDirectory) -> None:
    before = contents(copied.path)
    ran = decrop("sync", copied.path, "--tracking-uri", f"http://127.0.0.1:{free_port()}")
    assert ran.code == 1
    assert ran.out.startswith("error: MLflow cannot be updated: ") and ran.out.count("\n") == 1
    after = contents(copied.path)
    assert {name: after[name] for name in before} == before
