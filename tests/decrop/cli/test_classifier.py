"""`decrop classifier steal`: it leaves a surrogate, and goes on after it was killed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from decrop.cache import ContentCache
from decrop.cli.main import run
from decrop.cli.options import load_trial
from decrop.files import read_json
from decrop.trial.prepare import load_inputs
from tests.commands import set_options
from tests.decrop.black_box.functions import URL, InProcess, serve, through_surrogate
from tests.decrop.digits_trial import CPU, files_in
from tests.decrop.interrupted_training import interrupted_once

pytestmark = pytest.mark.usefixtures("one_thread")

QUERIES, HELD_OUT = 600, 80
SHORT = (
    *through_surrogate(QUERIES, epochs=3, learning_rate=0.01),
    "execution.device=cpu",
)
FILES = {"inputs.json", "weights.safetensors", "settings.yaml", "report.json"}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = load_trial("digits", ["classifier.training.epochs=3"])
    return load_inputs(config, ContentCache(tmp_path_factory.mktemp("target")), CPU).classifier


@pytest.fixture
def target(classifier: Any, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    found = InProcess(classifier)
    serve(monkeypatch, found)
    return found


def arguments(out: Path, *assignments: str) -> list[str]:
    options = set_options(*SHORT, *assignments)
    return ["classifier", "steal", "digits", *options, "--out", str(out), "--json"]


def kept(folder: Path) -> set[str]:
    return {name for name in files_in(folder) if not name.startswith("answers/")}


def untimed(report: dict[str, Any]) -> dict[str, Any]:
    epochs = [{**epoch, "seconds": 0} for epoch in report["epochs"]]
    return {**report, "epochs": epochs, "seconds": 0}


@pytest.mark.slow
def test_a_surrogate_is_left_and_compared(
    target: InProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(arguments(out)) == 0
    shown = capsys.readouterr().out
    assert f"{URL} will be asked about {QUERIES} images" in shown
    assert f"asked about {QUERIES} images ({QUERIES} in all), which gave probabilities" in shown
    assert "agreement with the endpoint on 80 held-out images" in shown
    assert kept(out) == FILES
    report = read_json(out / "report.json")
    assert (report["queries"], report["held_out"]["images"]) == (QUERIES, HELD_OUT)
    assert 0.3 < report["held_out"]["agreement"] <= 1
    assert json.loads(shown.splitlines()[-1])["report"] == {**report, "asked_now": QUERIES}
    # What it leaves is a surrogate for trials.
    taken = f"classifier.surrogate.weights={out / 'weights.safetensors'}"
    config = load_trial(str(out / "settings.yaml"), [taken])
    inputs = load_inputs(config, ContentCache(tmp_path / "cache"), CPU)
    assert inputs.classifier.content_hash() == report["classifier"]
    assert inputs.agreement == report["held_out"]["agreement"]

    # A finished one is not done again.
    before = target.images_asked
    assert run(arguments(out)) == 0
    assert target.images_asked == before
    shown = capsys.readouterr().out
    assert f"asked about 0 images ({QUERIES} in all)" in shown
    assert run(arguments(out, "seed=1")) == 2
    assert "holds a training with other settings" in capsys.readouterr().err
    assert run(arguments(tmp_path / "other", taken)) == 2
    assert "is a surrogate already" in capsys.readouterr().err


def test_labels_are_enough(
    classifier: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    serve(monkeypatch, InProcess(classifier, labels_only=True))
    assert run(arguments(tmp_path / "run")) == 0
    assert "which gave labels only" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_one_goes_on_and_asks_nothing_twice(
    target: InProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "run"
    assert run(arguments(undisturbed)) == 0
    asked_before = target.images_asked
    target.dies_after = asked_before + QUERIES // 2
    assert run(arguments(out)) == 1
    assert capsys.readouterr().err == "error: the black box is dead.\n"
    target.dies_after = None
    with interrupted_once(monkeypatch, lambda trainer: trainer.steps_done == 7):
        assert run(arguments(out)) == 130
    assert kept(out) == {"inputs.json", "settings.yaml", "checkpoint.pt", "history.json"}
    capsys.readouterr()
    assert run(arguments(out)) == 0
    steps = re.findall(r"training, steps: (\d+) of 15", capsys.readouterr().out)
    assert int(steps[0]) == 8 and int(steps[-1]) == 15
    assert target.images_asked - asked_before == QUERIES
    assert len(torch.cat(target.asked).flatten(1).unique(dim=0)) >= QUERIES - 40
    assert kept(out) == FILES
    weights = [(folder / "weights.safetensors").read_bytes() for folder in (undisturbed, out)]
    assert weights[0] == weights[1]
    reports = [untimed(read_json(folder / "report.json")) for folder in (undisturbed, out)]
    assert reports[0] == reports[1]
