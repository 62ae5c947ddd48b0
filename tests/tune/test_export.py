"""Bundles of a finished sweep's trials, through the command that makes them."""

import shutil
from pathlib import Path

import pytest

from decrop.bundle import load_bundle, verify_bundle
from decrop.errors import InputError
from decrop.files import read_json, write_json
from tests.commands import contents, decrop
from tests.tune.runs import FinishedSweep
from tests.tune.sweeps import begin, make_sweep
from tune.directory import SweepDirectory
from tune.export import best_trial, export_trial
from tune.results.metric import Metric
from tune.results.ranking import ranking

pytestmark = pytest.mark.usefixtures("one_thread")


def test_best_is_exported_as_it_was_certified_on_test(
    finished: FinishedSweep, tmp_path: Path
) -> None:
    ran = decrop("export", finished.directory.path, "--to", tmp_path / "bundle", "--json")
    best, score = next(iter(ranking(finished.directory).items()))
    assert ran.code == 0
    assert ran.last_line == {"trial": best, "bundle": str(tmp_path / "bundle")}
    assert best_trial(finished.directory) == best
    assert contents(tmp_path / "bundle") == contents(finished.directory.bundle_path)
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert f"Trial {best} of the sweep “tiny”" in card
    assert "rank 1 of 4 finished trials" in card
    assert f"({score:.3f})" in card
    assert "Trained once more on the whole limited data" in card
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.result.split == "test"
    assert verify_bundle(bundle) == len(bundle.certificates.idx) == 20


def test_a_trial_that_was_not_chosen_is_exported_as_it_was_ranked(
    finished: FinishedSweep, tmp_path: Path
) -> None:
    directory = finished.directory
    number = min(set(directory.trial_numbers()) - set(directory.final_numbers()))
    ran = decrop("export", directory.path, "--trial", number, "--to", tmp_path / "bundle")
    assert ran.code == 0 and f"bundle of trial {number}" in ran.out
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.result.split == "held_out"
    assert bundle.estimation_samples == 100
    assert verify_bundle(bundle) == len(bundle.certificates.idx)
    card = (tmp_path / "bundle" / "README.md").read_text()
    position = list(ranking(directory)).index(number) + 1
    assert f"rank {position} of 4 finished trials" in card
    assert "Trained once more" not in card


def test_the_card_names_the_metric_of_the_rank(finished: FinishedSweep, tmp_path: Path) -> None:
    shutil.copytree(finished.directory.path, tmp_path / "copied")
    directory = SweepDirectory.open(tmp_path / "copied")
    record = read_json(directory.record_path)
    record["sweep"]["leaderboard"]["by"] = "certified_accuracy@0.25"
    write_json(directory.record_path, record)
    best, score = next(iter(ranking(directory, Metric(0.25)).items()))
    assert best_trial(directory) == best
    export_trial(directory, best, tmp_path / "bundle")
    card = " ".join((tmp_path / "bundle" / "README.md").read_text().split())
    said = "by certified accuracy at r = 0.25 on held-out images"
    assert f"rank 1 of 4 finished trials {said} ({100 * score:.1f} %)" in card


def test_trial_0_is_called_the_papers_choice(finished: FinishedSweep, tmp_path: Path) -> None:
    to = tmp_path / "made" / "bundle"
    ran = decrop(
        "export", finished.directory.path, "--trial", 0, "--to", to, "--without-classifier"
    )
    assert ran.code == 0
    assert "(the reference, as given)" in (to / "README.md").read_text()
    assert not list((to / "classifier").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("trial", "message"),
    [
        ("99", "--trial 99: not a finished trial; finished are 0, 1, 2, 3."),
        ("last", "--trial last: give best, a trial's number or a row's name."),
        ("²", "--trial ²: give best, a trial's number or a row's name."),
        ("-1", "--trial -1: give best, a trial's number or a row's name."),
    ],
)
def test_what_is_no_finished_trial_is_refused(
    finished: FinishedSweep, tmp_path: Path, trial: str, message: str
) -> None:
    ran = decrop("export", finished.directory.path, "--trial", trial, "--to", tmp_path / "bundle")
    assert (ran.code, ran.err) == (2, f"error: {message}\n")
    assert not list(tmp_path.iterdir())


def test_a_sweep_without_finished_trials_has_no_best(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    begin(directory.trial(0), 0)
    with pytest.raises(InputError, match="has no finished trial to export"):
        best_trial(directory)
    with pytest.raises(InputError, match="finished are none"):
        export_trial(directory, 0, tmp_path / "bundle")


@pytest.mark.slow
def test_programs_and_licence_are_asked_for_on_the_command_line(
    finished: FinishedSweep, tmp_path: Path
) -> None:
    to = tmp_path / "bundle"
    options = ("--onnx", "--torch-export", "--license", "cc-by-4.0")
    ran = decrop("export", finished.directory.path, "--to", to, *options)
    assert ran.code == 0
    assert {"denoiser.onnx", "denoiser.pt2"} < contents(to).keys()
    assert "license: cc-by-4.0" in (to / "README.md").read_text()
    assert load_bundle(to).result.split == "test"
    ran = decrop("export", finished.directory.path, "--to", tmp_path / "b", "--license", "MIT")
    assert ran.code == 2
    assert ran.err.startswith("error: --license 'MIT': give an identifier in lower case")
