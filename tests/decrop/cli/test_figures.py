"""`decrop figures` draws what the run drew, from the bundle and the dataset alone."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import decrop.bundle.verify
from decrop.cli.main import run
from decrop.trial.folder import TrialFolder
from tests.commands import decrop as command
from tests.commands import refused
from tests.decrop.bundle.changed_bundle import renew_checksums
from tests.decrop.digits_trial import files_in

CERTIFICATES = {"certified_accuracy.png", "p_a_distribution.png"}
NEED_NO_DATA = {*CERTIFICATES, "training.png"}
ALL = NEED_NO_DATA | {"samples.png", "features.png"}


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def loading(settings: Any) -> None:
        raise AssertionError("data were asked for")

    monkeypatch.setattr(decrop.bundle.verify, "load_dataset", loading)


@pytest.mark.slow
def test_the_figures_of_the_run_are_drawn_again(
    exported: Path, final_trial: TrialFolder, tmp_path: Path
) -> None:
    to = tmp_path / "new" / "figures"
    ran = command("figures", exported, "--to", to, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert files_in(to) == ALL
    for name in ALL:
        assert (to / name).read_bytes() == (final_trial.figures_path / name).read_bytes(), name
    assert ran.out.splitlines()[0] == f"figures: {to}"
    assert ran.last_line == {"figures": sorted(str(to / name) for name in ALL)}


@pytest.mark.usefixtures("no_data")
def test_without_data_what_needs_none_is_drawn(exported: Path, tmp_path: Path) -> None:
    to = tmp_path / "figures"
    ran = command("figures", exported, "--to", to, "--without-data")
    assert (ran.code, ran.out) == (0, f"figures: {to}\n")
    assert files_in(to) == NEED_NO_DATA


@pytest.mark.usefixtures("no_data")
def test_a_bundle_without_history_has_no_loss_curves(exported: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(exported, tmp_path / "bundle"))
    (bundle / "history.json").unlink()
    renew_checksums(bundle)
    to = tmp_path / "figures"
    ran = command("figures", bundle, "--to", to, "--without-data")
    assert ran.code == 0 and "no losses are drawn" in ran.out
    assert files_in(to) == CERTIFICATES


@pytest.mark.slow
@pytest.mark.usefixtures("no_data")
def test_other_certificates_are_drawn_beside_those_of_the_bundle(
    exported: Path, held_out_trial: TrialFolder, tmp_path: Path
) -> None:
    command = ["figures", str(exported), "--without-data", "--to"]
    other = f"held out={held_out_trial.certificates_path}"
    assert run([*command, str(tmp_path / "one")]) == 0
    assert run([*command, str(tmp_path / "two"), "--compare", other]) == 0
    one, two = (
        (tmp_path / folder / "certified_accuracy.png").read_bytes() for folder in ("one", "two")
    )
    assert one != two


@pytest.mark.slow
def test_the_class_whose_features_are_drawn_can_be_chosen(
    exported: Path, final_trial: TrialFolder, tmp_path: Path
) -> None:
    assert run(["figures", str(exported), "--to", str(tmp_path), "--class", "7"]) == 0
    drawn, first = (
        (folder / "features.png").read_bytes() for folder in (tmp_path, final_trial.figures_path)
    )
    assert drawn != first


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--class", "ten"], "--class ten: must be one of 0, 1, 2,"),
        (["--compare", "certificates.tsv"], "--compare certificates.tsv: must be NAME=FILE"),
        (["--compare", "other=nowhere.tsv"], "nowhere.tsv does not exist"),
        (["--dataset-path", "nowhere"], "dataset.path"),
        (["--weights", "nowhere"], "classifier.weights: nowhere does not exist"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    exported: Path,
    tmp_path: Path,
    options: list[str],
    named: str,
) -> None:
    to = tmp_path / "figures"
    assert named in refused("figures", exported, "--to", to, *options)
    assert not to.exists()


def test_a_target_that_cannot_be_written_to_is_one_line(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    before = files_in(exported)
    for to in (tmp_path / "file", exported, exported / "figures"):
        said = refused("figures", exported, "--to", to)
        assert said.startswith(f"error: --to {to}: ")
    assert (tmp_path / "file").read_text() == "mine"
    assert files_in(exported) == before
