"""`decrop train` goes on where it was, and refuses what it cannot use before it writes anything."""

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
from tests.commands import Ran, contents, refused, set_options
from tests.commands import decrop as command
from tests.decrop.cli.bad_settings import BAD_ARGUMENTS, write_bad_files
from tests.decrop.digits_trial import EPOCHS, SHORT, TEST_IMAGES, outcome, short_trial


def arguments(out: Path, *assignments: str) -> list[str]:
    options = set_options(*SHORT, *assignments)
    return ["train", "digits", *options, "--out", str(out), "--json"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Path]:
    out = tmp_path_factory.mktemp("runs") / "digits"
    return command(*arguments(out)), out


@pytest.fixture
def trained(ran: tuple[Ran, Path]) -> Path:
    return ran[1]


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def working(*arguments: object, **named: object) -> None:
        raise AssertionError("this is work")

    monkeypatch.setattr(DenoiserTrainer, "run_epoch", working)
    monkeypatch.setattr(LocalSampler, "class_counts", working)


def test_last_line_is_one_json_object(ran: tuple[Ran, Path]) -> None:
    shown, out = ran
    assert (shown.code, shown.err) == (0, "")
    document = shown.last_line
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
    trained: Path,
) -> None:
    before = contents(trained)
    again = command(*arguments(trained))
    assert again.code == 0
    assert again.last_line["denoiser"] == read_json(trained / "trial" / "result.json")
    # Without --json nothing but the table is printed.
    assert command(*arguments(trained)[:-1]).out.splitlines()[-1] == f"bundle: {trained / 'bundle'}"
    assert contents(trained) == before


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
    trained: Path,
) -> None:
    before = contents(trained)
    assert refused(*arguments(trained, "sigma=0.5")) == (
        f"error: {trained / 'trial'} holds a run with other settings; choose another folder with "
        "--out.\n"
    )
    assert contents(trained) == before


@pytest.mark.usefixtures("no_work")
def test_an_epoch_is_not_chosen_by_a_run_of_other_settings(tmp_path: Path) -> None:
    # What is killed before early stopping has chosen leaves that folder alone.
    held_out = TrialFolder(tmp_path / "held_out")
    held_out.path.mkdir()
    held_out.write_config(short_trial())
    stopping = ("training.early_stopping=true", "sigma=0.5")
    assert refused(*arguments(tmp_path, *stopping)) == (
        f"error: {held_out.path} holds a run with other settings; choose another folder with "
        "--out.\n"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("no_work")
@cases(("mistake", "out"), list(product(BAD_ARGUMENTS, [["--out", "run"], []])))
def test_bad_input_is_one_line_and_nothing_is_created(
    mistake: str,
    out: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bad_files(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    given, named = BAD_ARGUMENTS[mistake]
    message = refused("train", *given, *out, "--json")
    assert message.endswith(".\n")
    assert all(part in message for part in named), message
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
