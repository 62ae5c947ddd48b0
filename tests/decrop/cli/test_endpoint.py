"""`decrop certify`, `inspect` and `verify` of a classifier behind an endpoint."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from decrop.black_box import endpoint_classifier
from decrop.bundle import export_bundle, load_bundle
from decrop.bundle.layout import FORMAT
from decrop.cli.main import run
from decrop.data.datasets import load_dataset
from decrop.evaluation.record import record_path
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json, write_json
from decrop.trial.folder import TrialFolder
from decrop.trial.inputs import TrialInputs
from tests.commands import decrop, refused, set_options
from tests.decrop.black_box.server import (
    Endpoint,
    Reply,
    labels_of,
    probabilities_of,
    serving,
)
from tests.decrop.digits_trial import (
    ESTIMATION_SAMPLES,
    FIXED,
    SELECTION_SAMPLES,
    SHORT,
    TEST_IMAGES,
    certificates,
    short_trial,
)

SAMPLES = SELECTION_SAMPLES + ESTIMATION_SAMPLES
FP32 = "execution.precision=fp32"
ADAPTIVE = "certification.procedure=adaptive"
COMMAND = [sys.executable, "-c", "from decrop.cli import main; main()"]


@pytest.fixture
def endpoint(inputs: TrialInputs) -> Iterator[Endpoint]:
    """The classifier of the digits' trials."""
    with serving(probabilities_of(inputs.classifier)) as found:
        yield found


def options(endpoint: Endpoint, *assignments: str) -> list[str]:
    """Return the settings of a short trial whose classifier is the endpoint."""
    own = [one for one in SHORT if not one.startswith("classifier.")]
    given = [*own, "classifier.training=null", f"classifier.source={endpoint.url}", *assignments]
    return set_options(*given)


def certified(arguments: list[str], out: Path) -> CertificateTable:
    assert run(["certify", *arguments, "--out", str(out)]) == 0
    return CertificateTable.read_tsv(out)


def white_box(cache_options: list[str], out: Path) -> list[tuple[Any, ...]]:
    given = set_options(*SHORT, FP32, *cache_options)
    return certificates(certified(["digits", *given], out))


@pytest.mark.slow
@pytest.mark.parametrize("procedure", [FIXED, ADAPTIVE])
def test_certificates_are_those_of_the_network_behind(
    procedure: str, endpoint: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "certificates.tsv"
    table = certified(["digits", *options(endpoint, procedure), "--json"], out)
    shown = capsys.readouterr()
    spent = json.loads(shown.out.splitlines()[-1])["queries"]
    assert table.samples is not None
    assert spent["asked"] == spent["answered"] == endpoint.images == 1 + int(table.samples.sum())
    most = "" if procedure == FIXED else "at most "
    assert (
        f"asks {endpoint.url} for {most}{TEST_IMAGES * SAMPLES:,} images; there is no "
        "classifier.endpoint.query_budget\n"
    ) in shown.out
    assert f"asked {endpoint.url} for {spent['asked']:,} images so far, in" in shown.out
    assert certificates(table) == white_box([procedure], tmp_path / "white.tsv")
    names = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    tables = {"certificates.tsv", "certificates.tsv.json", "white.tsv", "white.tsv.json"}
    assert names == {*tables, "certificates.tsv.queries"}


@pytest.mark.slow
def test_a_killed_certification_asks_for_nothing_twice(endpoint: Endpoint, tmp_path: Path) -> None:
    out = tmp_path / "certificates.tsv"
    concurrency = 2
    given = options(
        endpoint,
        FIXED,
        "classifier.endpoint.batch_size=20",
        f"classifier.endpoint.concurrency={concurrency}",
        "classifier.endpoint.protocol=mlflow",
    )
    arguments = ["certify", "digits", *given, "--out", str(out)]
    killing, first = threading.Event(), threading.Lock()

    def kill(number: int) -> None:
        # Requests from here on are answered no more; those before are written down meanwhile.
        if number < 12 or process is None or process.returncode is not None:
            return
        if first.acquire(blocking=False):
            time.sleep(0.5)
            killing.set()
            os.kill(process.pid, signal.SIGKILL)
        killing.wait(10)
        raise ConnectionResetError

    process: subprocess.Popen[str] | None = None
    endpoint.seconds, endpoint.before_answer = 0.05, kill
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL and killing.is_set()
    answered = sum(endpoint.answered.values()) - 1
    assert answered >= 100
    before, endpoint.seconds = endpoint.images, 0.0
    table = certified(["digits", *given], out)
    # One image at the start, as the first time; and of the noisy ones all that was not answered.
    twice = {image: times for image, times in endpoint.answered.items() if times > 1}
    assert list(twice.values()) == [2]
    assert endpoint.images - before == 1 + TEST_IMAGES * SAMPLES - answered
    assert read_json(out.with_name("certificates.tsv.queries"))["asked"] == endpoint.images
    assert certificates(table) == white_box([FIXED], tmp_path / "white.tsv")


def test_a_budget_is_said_refused_and_kept_to(endpoint: Endpoint, tmp_path: Path) -> None:
    out = tmp_path / "certificates.tsv"
    most = TEST_IMAGES * SAMPLES

    def ran(*assignments: str) -> tuple[int, str, str]:
        done = decrop("certify", "digits", *options(endpoint, *assignments), "--out", out)
        assert done.err.count("\n") <= 1
        return done.code, done.out, done.err

    code, _, error = ran(FIXED, "classifier.endpoint.query_budget=500")
    assert code == 2 and endpoint.images == 1
    assert f"{most:,} images are to be asked of" in error and "499 are left" in error
    small = "classifier.endpoint.query_budget=500"
    code, shown, error = ran(ADAPTIVE, small)
    assert code == 1 and endpoint.images <= 500
    assert "are left of the budget, so it may stop before its end" in shown
    assert f"asked {endpoint.url} for {endpoint.images} images of a budget of 500 so far" in shown
    assert "of 500 images are spent" in error and f"kept in {out}.counts" in error
    answered = sum(endpoint.answered.values())
    # The fixed procedure has a journal of its own draws; what is in it already costs nothing.
    larger = f"classifier.endpoint.query_budget={most + 10}"
    code, shown, _ = ran(FIXED, larger)
    assert code == 0 and f"({answered - 2} are answered already)" in shown
    assert endpoint.images == most + 3


def test_options_that_do_not_fit_are_refused(
    endpoint: Endpoint, tmp_path: Path, exported: Path
) -> None:
    out = ["--out", str(tmp_path / "c.tsv")]
    for arguments, said in (
        (["certify", str(exported), "--queries", "q", *out], "--queries q is of endpoints"),
        (["inspect", "digits", "--queries", "q"], "--queries q is of endpoints"),
        (["certify", str(exported), "--weights", endpoint.url, *out], "no endpoint can stand in"),
        (["train", "digits", *options(endpoint)], "which gives no gradients"),
    ):
        assert said in refused(*arguments)
    assert not endpoint.asked


def test_an_endpoint_is_inspected(endpoint: Endpoint, tmp_path: Path) -> None:
    ledger = tmp_path / "queries"
    budget = ["--set", "classifier.endpoint.query_budget=400", "--queries", str(ledger)]
    arguments = ["inspect", endpoint.url, "--dataset", "digits", "--images", "20", *budget]
    ran = decrop(*arguments, "--json")
    assert f"asks {endpoint.url} for 340 images; 399 are left of the budget" in ran.out
    found = ran.last_line
    assert found["queries"]["asked"] == endpoint.images == 341
    assert found["parameters"] is None and found["classes"] == 10
    assert found["architecture"].startswith("an endpoint that gives probabilities (mlflow)")
    assert found["clean_accuracy"] >= 0.5 and found["precision"] == "fp32"
    ran = decrop(*arguments)
    assert ran.code == 2 and "340 images are to be asked" in ran.err
    assert endpoint.images == 342


# Bundles


@pytest.fixture
def bundle(
    endpoint: Endpoint, inputs: TrialInputs, fixed_trial: TrialFolder, tmp_path: Path
) -> Path:
    """The bundle of a trial whose classifier was certified behind the endpoint."""
    config = short_trial(
        FIXED, "classifier.training=null", f"classifier.source={endpoint.url}"
    ).model_dump(mode="json")
    classifier = endpoint_classifier(
        short_trial("classifier.training=null", f"classifier.source={endpoint.url}").classifier,
        load_dataset(short_trial().dataset),
        None,
    )
    trial = TrialFolder(tmp_path / "trial")
    trial.path.mkdir()
    for path in fixed_trial.path.iterdir():
        (trial.path / path.name).symlink_to(path)
    trial.config_path.unlink()
    write_json(trial.config_path, config)
    result = read_json(trial.result_path)
    result["hashes"]["classifier"] = classifier.content_hash()
    trial.result_path.unlink()
    write_json(trial.result_path, result)
    # That of the classifier itself; without one, settings and result tell the same.
    record_path(trial.certificates_path).unlink()
    path = tmp_path / "bundle"
    export_bundle(trial, classifier, inputs.class_names, path, origin="Made for tests.")
    endpoint.asked.clear()
    return path


def test_a_bundle_names_its_endpoint_and_does_not_ask_it(bundle: Path, endpoint: Endpoint) -> None:
    document = read_json(bundle / "config.json")
    assert document["format"] == FORMAT
    assert document["trial"]["classifier"]["source"] == endpoint.url
    recorded = document["trial"]["classifier"]["endpoint"]
    assert (recorded["protocol"], recorded["answers"]) == ("mlflow", "probabilities")
    assert recorded["pixels"] == "float" and recorded["token_variable"] is None
    assert not list((bundle / "classifier").glob("*.safetensors"))
    card = (bundle / "README.md").read_text()
    assert "asked only where the user names it" in card
    assert f'classifier="{endpoint.url}"' in card
    said = refused("verify", bundle)
    assert f"describes the endpoint {endpoint.url}, which is not asked unless" in said
    loaded = load_bundle(bundle, classifier=endpoint.url)
    assert loaded.network is not None and not endpoint.asked


def test_a_bundle_is_verified_and_certified_where_the_endpoint_is_now(
    bundle: Path, inputs: TrialInputs, tmp_path: Path
) -> None:
    # Verification computes as recorded, in whatever precision that was.
    with serving(probabilities_of(inputs.classifier)) as moved:
        arguments = [str(bundle), "--weights", moved.url]
        ran = decrop("verify", *arguments)
        assert f"asks {moved.url} for {TEST_IMAGES * SAMPLES:,} images" in ran.out
        assert moved.images == TEST_IMAGES * SAMPLES
        assert "recorded certificates are identical" in ran.out and ran.code in (0, 1)
        budget = ["--set", "classifier.endpoint.query_budget=5000"]
        table = certified([*arguments, *budget], tmp_path / "certificates.tsv")
        assert len(table.idx) == TEST_IMAGES
        spent = read_json(tmp_path / "certificates.tsv.queries")
        assert spent["asked"] == TEST_IMAGES * SAMPLES
    fixed = ["--set", "classifier.endpoint.pixels=uint8"]
    said = refused("certify", *arguments, *fixed, "--out", tmp_path / "c.tsv")
    assert "the bundle fixes it" in said


def test_a_rejector_and_figures_need_more_than_predictions(
    bundle: Path, endpoint: Endpoint, tmp_path: Path
) -> None:
    weights = ["--weights", endpoint.url]
    for arguments in (
        ["rejector", "train", str(bundle), "--out", str(tmp_path / "r"), *weights],
        ["figures", str(bundle), "--to", str(tmp_path / "f"), *weights],
    ):
        assert "gives predictions only" in refused(*arguments)
    assert not endpoint.asked


def test_another_kind_of_answer_is_not_the_recorded_classifier(
    bundle: Path, inputs: TrialInputs
) -> None:
    with serving(labels_of(inputs.classifier)) as other:
        ran = decrop("verify", bundle, "--weights", other.url)
    assert ran.code == 1 and "answers with labels only" in ran.err
    with serving(None, Reply(b"")) as unused:
        for url in (f"{unused.url}?key=secret", "http://me:secret@localhost/"):
            error = refused("verify", bundle, "--weights", url)
            assert "token_variable" in error and "secret" not in error
    assert not unused.asked
