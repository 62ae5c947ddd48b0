"""`decrop train` in front of an endpoint: what it says, asks and leaves."""

import json
from pathlib import Path
from typing import Any

import pytest

from decrop.bundle import load_bundle
from decrop.bundle.export import portable
from decrop.cli.main import run
from decrop.cli.options import change
from decrop.files import read_json
from decrop.trial.inputs import TrialInputs
from tests.commands import set_options
from tests.decrop.black_box.functions import through_surrogate
from tests.decrop.black_box.server import labels_of, probabilities_of, serving
from tests.decrop.digits_trial import (
    ESTIMATION_SAMPLES,
    FIXED,
    SELECTION_SAMPLES,
    SHORT,
    TEST_IMAGES,
    sample_nothing,
)

pytestmark = pytest.mark.usefixtures("one_thread")

QUERIES, OPENING = 200, 2
ONCE = TEST_IMAGES * (SELECTION_SAMPLES + ESTIMATION_SAMPLES + 1)
MOST = OPENING + QUERIES + 2 * ONCE


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    sample_nothing(monkeypatch)


def arguments(out: Path, url: str, *assignments: str) -> list[str]:
    given = [assignment for assignment in SHORT if "classifier.training" not in assignment]
    stolen = through_surrogate(QUERIES, url, epochs=3, learning_rate=0.01)
    options = set_options(*given, *stolen, *assignments)
    return ["train", "digits", *options, "--out", str(out), "--json"]


def said(capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    shown = capsys.readouterr().out
    document: dict[str, Any] = json.loads(shown.splitlines()[-1])
    return shown, document


@pytest.mark.slow
def test_a_denoiser_is_trained_certified_and_exported(
    inputs: TrialInputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with serving(probabilities_of(inputs.classifier)) as endpoint:
        assert run(arguments(out, endpoint.url, FIXED)) == 0
        shown, document = said(capsys)
        assert f"{endpoint.url} is asked about at most {MOST:,} images: 200 for the sur" in shown
        # The protocol is found out at once.
        asked = MOST - 1
        assert endpoint.images == asked
        assert f"asked {endpoint.url} for {asked:,} images so far" in shown
        assert "certified on the endpoint; trained through a surrogate that agrees" in shown
        assert document["queries"]["asked"] == document["queries"]["answered"] == asked
        assert {"classifier", "surrogate"} <= set(document["denoiser"]["hashes"])
        bundle = load_bundle(out / "bundle", classifier=endpoint.url)
        assert bundle.config.classifier.source == endpoint.url
        given = ["classifier.surrogate.weights=here/weights.safetensors"]
        carried = portable(change(bundle.config, given), bundle.classifier, bundle.result)
        assert carried.classifier.surrogate == bundle.config.classifier.surrogate
        # The same command finds all of it there, and only looks who answers.
        assert run(arguments(out, endpoint.url, FIXED)) == 0
        assert endpoint.images == asked + 1


@pytest.mark.slow
def test_a_budget_is_kept_and_may_be_raised_to_go_on(
    inputs: TrialInputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with serving(labels_of(inputs.classifier)) as endpoint:

        def budget(images: int) -> str:
            return f"classifier.endpoint.query_budget={images}"

        assert run(arguments(out, endpoint.url, FIXED, budget(MOST - 1))) == 2
        assert capsys.readouterr().err.startswith("error: classifier.endpoint.query_budget")
        assert endpoint.images == 0 and not out.exists()
        few = OPENING + QUERIES + ONCE // 4
        assert run(arguments(out, endpoint.url, budget(few))) == 1
        captured = capsys.readouterr()
        assert "which may not suffice" in captured.out
        assert "error: classifier.endpoint.query_budget" in captured.err
        assert captured.err.count("\n") == 1
        spent = endpoint.images
        assert spent <= few and read_json(out / "queries.json")["asked"] == spent
        assert run(arguments(out, endpoint.url, budget(MOST + 1))) == 0
        _, document = said(capsys)
        assert document["queries"]["asked"] == endpoint.images <= MOST + 1
        asked = endpoint.answered
    with serving(labels_of(inputs.classifier)) as undisturbed:
        assert run(arguments(tmp_path / "undisturbed", undisturbed.url)) == 0
    # Asked about more than an undisturbed run: only the image that looks who answers.
    assert sum((asked - undisturbed.answered).values()) == 1
    assert not undisturbed.answered - asked


def test_without_a_surrogate_nothing_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as endpoint:
        given = arguments(tmp_path / "run", endpoint.url, "classifier.surrogate=null")
        assert run(given) == 2
        assert "classifier.surrogate: nothing says through what to train" in capsys.readouterr().err
        assert endpoint.images == 0
