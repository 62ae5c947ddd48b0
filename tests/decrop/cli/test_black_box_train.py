"""`decrop train` in front of an endpoint: what it says, asks and leaves."""

from pathlib import Path

import pytest

from decrop.bundle import load_bundle
from decrop.bundle.export import portable
from decrop.cli.options import change
from decrop.files import read_json
from decrop.trial.inputs import TrialInputs
from tests.commands import decrop, refused, set_options
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


@pytest.mark.slow
def test_a_denoiser_is_trained_certified_and_exported(inputs: TrialInputs, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with serving(probabilities_of(inputs.classifier)) as endpoint:
        ran = decrop(*arguments(out, endpoint.url, FIXED))
        assert ran.code == 0, ran.err
        assert f"{endpoint.url} is asked about at most {MOST:,} images: 200 for the sur" in ran.out
        # The protocol is found out at once.
        asked = MOST - 1
        assert endpoint.images == asked
        assert f"asked {endpoint.url} for {asked:,} images so far" in ran.out
        assert "certified on the endpoint; trained through a surrogate that agrees" in ran.out
        queries = ran.last_line["queries"]
        assert queries["asked"] == queries["answered"] == asked
        assert {"classifier", "surrogate"} <= set(ran.last_line["denoiser"]["hashes"])
        bundle = load_bundle(out / "bundle", classifier=endpoint.url)
        assert bundle.config.classifier.source == endpoint.url
        given = ["classifier.surrogate.weights=here/weights.safetensors"]
        carried = portable(change(bundle.config, given), bundle.classifier, bundle.result)
        assert carried.classifier.surrogate == bundle.config.classifier.surrogate
        # The same command finds all of it there, and only looks who answers.
        assert decrop(*arguments(out, endpoint.url, FIXED)).code == 0
        assert endpoint.images == asked + 1


@pytest.mark.slow
def test_a_budget_is_kept_and_may_be_raised_to_go_on(inputs: TrialInputs, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with serving(labels_of(inputs.classifier)) as endpoint:

        def budget(images: int) -> str:
            return f"classifier.endpoint.query_budget={images}"

        ran = decrop(*arguments(out, endpoint.url, FIXED, budget(MOST - 1)))
        assert ran.code == 2 and ran.err.startswith("error: classifier.endpoint.query_budget")
        assert endpoint.images == 0 and not out.exists()
        few = OPENING + QUERIES + ONCE // 4
        ran = decrop(*arguments(out, endpoint.url, budget(few)))
        assert ran.code == 1 and "which may not suffice" in ran.out
        assert "error: classifier.endpoint.query_budget" in ran.err and ran.err.count("\n") == 1
        spent = endpoint.images
        assert spent <= few and read_json(out / "queries.json")["asked"] == spent
        ran = decrop(*arguments(out, endpoint.url, budget(MOST + 1)))
        assert ran.last_line["queries"]["asked"] == endpoint.images <= MOST + 1
        asked = endpoint.answered
    with serving(labels_of(inputs.classifier)) as undisturbed:
        assert decrop(*arguments(tmp_path / "undisturbed", undisturbed.url)).code == 0
    # Asked about more than an undisturbed run: only the image that looks who answers.
    assert sum((asked - undisturbed.answered).values()) == 1
    assert not undisturbed.answered - asked


def test_without_a_surrogate_nothing_is_asked(tmp_path: Path) -> None:
    with serving() as endpoint:
        given = arguments(tmp_path / "run", endpoint.url, "classifier.surrogate=null")
        said = refused(*given)
        assert "classifier.surrogate: nothing says through what to train" in said
        assert endpoint.images == 0
