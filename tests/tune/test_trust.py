"""Code that a sweep names runs where its own author asks for it, and nowhere else."""

import shutil
import sys
from pathlib import Path

import pytest
from rich.console import Console

from decrop.files import read_json, write_json
from tests.commands import decrop
from tests.tune.runs import running_on, write_sweep
from tests.tune.sweeps import begin, end, write_board, write_complete_trial, write_outcome
from tune.cluster import Claim, Claims, ClusterSize, Machines
from tune.directory import SweepDirectory, TrialRecord
from tune.space import reference_config
from tune.sweep import RunOptions
from tune.sweep_file import load_sweep
from tune.trust import resume_command
from tune.worker import SweepJob, run_recorded

pytestmark = pytest.mark.usefixtures("one_thread")

FACTORY = "touching:make"
ALONE = Claims(Claim(1, 0), Claim(1, 0), max_helpers=0, max_concurrent=None)


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once somebody has imported the module `touching`."""
    path = tmp_path / "imported"
    code = (
        "from pathlib import Path; import torch\n"
        f"Path({str(path)!r}).touch()\n"
        "def make(): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    (tmp_path / "touching.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "touching", raising=False)
    return path


def sweep_naming(folder: Path, source: str) -> Path:
    trial = {
        "classifier": {"source": source, "training": None},
        "certification": {"radii": [0.0, 0.25]},
    }
    return write_sweep(folder, trial=trial)


def refused(path: Path, *arguments: object) -> str:
    with running_on(ClusterSize((Machines(4.0, 0.0),))):
        ran = decrop(*arguments)
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.out + ran.err
    assert not path.exists()
    return ran.err


@pytest.fixture
def strangers(tmp_path: Path) -> SweepDirectory:
    """A sweep directory that names the code, with three trials that have ended."""
    sweep = load_sweep(str(sweep_naming(tmp_path, FACTORY)), [])
    directory = SweepDirectory.create(tmp_path / "got", sweep)
    for number in range(3):
        write_complete_trial(directory.trial(number), number)
        begin(directory.trial(number), number, reference_config(sweep))
        end(directory.trial(number))
        if number < 2:
            write_complete_trial(directory.final(number), number, split="test")
    directory.undefended.path.mkdir()
    write_outcome(directory.undefended, "test")
    write_board(directory)
    return directory


def test_a_dry_run_imports_nothing_unless_told(tmp_path: Path, marker: Path) -> None:
    file = sweep_naming(tmp_path, FACTORY)
    said = refused(marker, "sweep", file, "--dry-run")
    assert said == (
        f"error: classifier.source: {FACTORY} would be imported, which takes --trust-code; give it "
        "if you trust who wrote the sweep file.\n"
    )
    ran = decrop("sweep", file, "--dry-run", "--trust-code")
    assert ran.code == 0, ran.err
    assert marker.exists()


def test_one_of_many_classifiers_is_enough_to_be_asked_about(tmp_path: Path, marker: Path) -> None:
    space = {"classifier.source": {"choice": ["small_cnn", FACTORY]}}
    assert FACTORY in refused(marker, "sweep", write_sweep(tmp_path, space=space), "--dry-run")


def test_a_denoiser_of_others_code_is_asked_about(tmp_path: Path, marker: Path) -> None:
    for space in (
        {"denoiser.source": {"choice": ["unet", FACTORY]}},
        {"denoiser.source": {"choice": ["unet", "diffusers/somebody/model"]}},
    ):
        said = refused(marker, "sweep", write_sweep(tmp_path, space=space), "--dry-run")
        assert "denoiser.source: " in said and "would be imported, which takes --trust-code" in said


def test_a_sweep_of_ones_own_imports_what_its_file_names(tmp_path: Path, marker: Path) -> None:
    # Far enough to be checked, and ended by what comes after.
    (tmp_path / "file").touch()
    with running_on(ClusterSize((Machines(4.0, 0.0),))):
        ran = decrop("sweep", sweep_naming(tmp_path, FACTORY), "--out", tmp_path / "file")
    assert "Cannot make a sweep directory" in ran.err and marker.exists()


def test_a_strangers_directory_is_gone_on_with_only_by_those_who_trust_it(
    strangers: SweepDirectory, marker: Path
) -> None:
    assert "the sweep directory" in refused(marker, "resume", strangers.path)
    assert resume_command(strangers) == f"decrop resume {strangers.path} --trust-code"
    assert FACTORY in refused(marker, "leaderboard", strangers.path, "--top", 3)


def test_a_sweep_is_gone_on_with_where_it_ran(strangers: SweepDirectory) -> None:
    options = RunOptions(Console(), "head:6379", "http://127.0.0.1:5000")
    assert options.going_on(strangers) == (
        f"go on with: decrop resume {strangers.path} --address head:6379 "
        "--tracking-uri http://127.0.0.1:5000 --trust-code"
    )


@pytest.mark.parametrize(
    ("command", "given"),
    [
        (
            ["leaderboard", "HERE", "--top", "1"],
            ["--address", "head:6379", "--tracking-uri", "http://127.0.0.1:9"],
        ),
        (["report", "HERE", "--html", "page.html"], []),
        (["report", "HERE"], []),
    ],
)
def test_every_hint_to_go_on_is_a_whole_command(
    strangers: SweepDirectory, marker: Path, command: list[str], given: list[str]
) -> None:
    strangers.leaderboard_json_path.unlink()
    shutil.rmtree(strangers.path / "final")
    ran = decrop(*[word.replace("HERE", str(strangers.path)) for word in command], *given)
    expected = ["decrop", "resume", str(strangers.path), *given, "--trust-code"]
    assert f"`{' '.join(expected)}`" in ran.err


def test_a_strangers_endpoint_is_not_asked(tmp_path: Path) -> None:
    # Nor is the secret sent that it names.
    url = "http://127.0.0.1:9/invocations"
    given = [
        f"trial.classifier.source={url}",
        "trial.classifier.training=null",
        "trial.classifier.surrogate.architecture=small_cnn",
        "trial.classifier.endpoint.token_variable=HOME",
    ]
    sweep = load_sweep(str(write_sweep(tmp_path)), given)
    directory = SweepDirectory.create(tmp_path / "got", sweep)
    said = refused(tmp_path / "never", "resume", directory.path)
    assert f"{url} would be asked, which takes --trust-code" in said


def test_commands_that_read_import_nothing(
    strangers: SweepDirectory, marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.mlflow.registry.serve", lambda *arguments: None)
    path = strangers.path
    for command in (
        ["sync", path],
        ["report", path, "--to", tmp_path / "report"],
        ["compare", f"{path}:0", f"{path}:1"],
        ["leaderboard", path],
        ["audit", path],
        ["dashboard", path],
        ["clean", path, "--yes"],
    ):
        ran = decrop(*command)
        # A result that is told, be it that files and Optuna differ.
        assert ran.code in (0, 1) and ran.out, command
        assert not marker.exists(), command


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> SweepDirectory:
    """A sweep directory whose one trial has ended, of a classifier that decrop brings."""
    folder = tmp_path_factory.mktemp("ended")
    sweep = load_sweep(str(write_sweep(folder)), [])
    directory = SweepDirectory.create(folder / "sweeps", sweep)
    job = SweepJob(directory.path, sweep, ALONE, None)
    record = TrialRecord(
        number=0, reference=True, parameters={}, config=reference_config(job.sweep)
    )
    list(run_recorded(job, record, directory.trial(0), "held_out"))
    return directory


def test_an_export_imports_nothing_unless_told(
    ended: SweepDirectory, marker: Path, tmp_path: Path
) -> None:
    path = tmp_path / "got"
    shutil.copytree(ended.path, path)
    assert decrop("export", path, "--to", tmp_path / "own").code == 0
    (description,) = path.glob("classifiers/*/classifier.json")
    changed = {**read_json(description), "architecture": FACTORY, "feature_layer": None}
    write_json(description, changed)
    for options in ([], ["--register", "mine"]):
        said = refused(marker, "export", path, "--to", tmp_path / "bundle", *options)
        assert FACTORY in said and "--trust-code" in said
    decrop("export", path, "--to", tmp_path / "bundle", "--trust-code")
    assert marker.exists()
