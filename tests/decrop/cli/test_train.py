"""`decrop train` goes on where it was, and refuses what it cannot use before it writes anything."""

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import decrop.trial.run
from decrop.bundle import load_bundle, verify_bundle
from decrop.cli.main import run
from decrop.files import read_json
from decrop.smoothing.sampling import LocalSampler
from decrop.training.denoiser import DenoiserTrainer
from decrop.trial.folder import TrialFolder
from decrop.trial.result import TrialResult
from tests.cases import cases
from tests.decrop.cli.bad_settings import BAD_ARGUMENTS, write_bad_files
from tests.decrop.digits_trial import EPOCHS, SHORT, TEST_IMAGES, files_in, outcome


def arguments(out: Path, *assignments: str) -> list[str]:
    options = [word for item in (*SHORT, *assignments) for word in ("--set", item)]
    return ["train", "digits", *options, "--out", str(out), "--json"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert run(arguments(out)) == 0
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_in(folder)}


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def working(*arguments: object, **named: object) -> None:
        raise AssertionError("this is work")

    monkeypatch.setattr(DenoiserTrainer, "run_epoch", working)
    monkeypatch.setattr(LocalSampler, "class_counts", working)


@pytest.mark.slow
def test_last_line_is_one_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert run(arguments(out)) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    document = json.loads(shown.out.splitlines()[-1])
    assert document.keys() == {"bundle", "denoiser", "undefended"}
    assert document["bundle"] == str(out / "bundle")
    assert document["denoiser"] == read_json(out / "trial" / "result.json")
    assert document["undefended"] == read_json(out / "undefended" / "result.json")
    assert document["undefended"]["flip_rate"] is None
    # And what people read stands above it.
    assert f"training, epochs: {EPOCHS} of {EPOCHS}" in shown.out
    assert "Certified accuracy on test images, % (95 % interval)" in shown.out
    accuracy = document["denoiser"]["certified_accuracy"]["0.25"]
    assert f"{100 * accuracy:.1f}" in shown.out


def test_without_json_nothing_but_the_table_is_printed(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(arguments(trained)[:-1]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"bundle: {trained / 'bundle'}"


def test_run_leaves_a_bundle_that_verifies(trained: Path, final_trial: TrialFolder) -> None:
    assert {path.name for path in trained.iterdir()} == {"trial", "undefended", "bundle", "cache"}
    bundle = load_bundle(trained / "bundle")
    assert bundle.result.split == "test"
    assert verify_bundle(bundle) == TEST_IMAGES
    # The command does what run_trial does.
    assert outcome(TrialFolder(trained / "trial")) == outcome(final_trial)
    undefended = TrialResult.from_json(read_json(trained / "undefended" / "result.json"))
    assert undefended.hashes == bundle.result.hashes


@pytest.mark.usefixtures("no_work")
def test_a_finished_run_is_not_done_again(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(trained)
    capsys.readouterr()
    assert run(arguments(trained)) == 0
    assert contents(trained) == before
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["denoiser"] == read_json(trained / "trial" / "result.json")


@pytest.mark.slow
def test_an_interrupted_run_goes_on(
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    # Save after every epoch.
    monkeypatch.setattr(decrop.training.loop, "SAVE_EVERY_SECONDS", -1.0)
    run_epoch = DenoiserTrainer.run_epoch
    epochs: list[int] = []

    def interrupted(trainer: DenoiserTrainer) -> Any:
        if len(epochs) == 3:
            raise KeyboardInterrupt
        record = run_epoch(trainer)
        epochs.append(record.epoch)
        return record

    with monkeypatch.context() as patched:
        patched.setattr(DenoiserTrainer, "run_epoch", interrupted)
        assert run(arguments(out)) == 130
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    assert not (out / "bundle").exists()
    assert run(arguments(out)) == 0
    progress = re.findall(r"training, epochs: (\d)", capsys.readouterr().out)
    assert [int(epoch) for epoch in progress] == [4, 5]
    assert outcome(TrialFolder(out / "trial")) == outcome(TrialFolder(trained / "trial"))


@pytest.mark.usefixtures("no_work")
def test_a_folder_of_other_settings_is_left_alone(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(trained)
    capsys.readouterr()
    assert run(arguments(trained, "sigma=0.5")) == 2
    shown = capsys.readouterr()
    assert shown.err == (
        f"error: {trained / 'trial'} holds a run with other settings; choose another folder with "
        "--out.\n"
    )
    assert contents(trained) == before


@pytest.mark.slow
@pytest.mark.usefixtures("no_work")
@cases(("mistake", "out"), list(product(BAD_ARGUMENTS, [["--out", "run"], []])))
def test_bad_input_is_one_line_and_nothing_is_created(
    mistake: str,
    out: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bad_files(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    given, named = BAD_ARGUMENTS[mistake]
    assert run(["train", *given, *out, "--json"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1, shown.err
    assert shown.err.endswith(".\n")
    for part in named:
        assert part in shown.err
    assert shown.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_without_out_a_run_gets_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class BegunError(Exception):
        pass

    def begun(config: Any, inputs: Any, folder: TrialFolder, *rest: Any, **named: Any) -> Any:
        raise BegunError(str(folder.path))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(decrop.trial.run, "run_trial", begun)
    with pytest.raises(BegunError) as folder:
        run([word for word in arguments(tmp_path) if word not in ("--out", str(tmp_path))])
    assert re.fullmatch(r"runs/digits-\d{8}-\d{6}/trial", str(folder.value))
