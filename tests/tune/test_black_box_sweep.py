"""A whole sweep in front of an endpoint: what it asks, and what is told of whom."""

from pathlib import Path
from typing import Any

import pytest

from decrop.bundle import load_bundle
from decrop.cache import ContentCache
from decrop.cli.options import load_trial
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json
from decrop.trial.folder import TrialFolder
from decrop.trial.prepare import load_inputs
from decrop.trial.run import certify_undefended
from tests.commands import Ran, decrop
from tests.decrop.black_box.server import Endpoint, probabilities_of, serving
from tests.decrop.digits_trial import CPU, certificates
from tests.tune.runs import only_sweep, running_on, write_sweep
from tune.cluster import ClusterSize
from tune.directory import SweepDirectory
from tune.plan import sweep_queries
from tune.sweep_file import SweepConfig, load_sweep

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

TARGET = ("limited.fraction=0.08", "classifier.training.epochs=3")
CERTIFICATION = {
    "procedure": "fixed",
    "selection_samples": 10,
    "estimation_samples": 40,
    "held_out_samples": 40,
    "pruning_samples": 20,
    "test_images": 10,
}
IMAGES, SAMPLES, QUERIES = 10, 50, 200


def black_box(url: str, **endpoint: Any) -> dict[str, Any]:
    return {
        "classifier": {
            "source": url,
            "training": None,
            "surrogate": {
                "architecture": "small_cnn",
                "queries": QUERIES,
                "epochs": 3,
                "learning_rate": 0.01,
            },
            "endpoint": {"protocol": "mlflow", **endpoint},
        },
        "certification": CERTIFICATION,
        "execution": {"chunk_size": 10},
    }


class Finished:
    """A sweep that ended, its endpoint, and the settings it was started with."""

    def __init__(self, ran: Ran, directory: SweepDirectory, endpoint: Endpoint, sweep: SweepConfig):
        self.ran, self.directory, self.endpoint, self.sweep = ran, directory, endpoint, sweep


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Any:
    cache = ContentCache(tmp_path_factory.mktemp("target"))
    return load_inputs(load_trial("digits", TARGET), cache, CPU)


@pytest.fixture(scope="module")
def finished_sweep(
    target: Any, local_ray: ClusterSize, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    folder = tmp_path_factory.mktemp("black box")
    with serving(probabilities_of(target.classifier)) as endpoint, running_on(local_ray):
        shape = {"trials": 3, "leaderboard": {"top": 1}}
        loaded = load_sweep(str(write_sweep(folder, trial=black_box(endpoint.url), **shape)))
        most = sweep_queries(loaded)
        assert most is not None
        file = write_sweep(folder, trial=black_box(endpoint.url, query_budget=most.most), **shape)
        ran = decrop("sweep", file, "--out", folder / "sweeps", "--json")
        assert ran.code == 0, ran.out + ran.err
        yield Finished(ran, only_sweep(folder / "sweeps"), endpoint, load_sweep(str(file)))


def test_it_asks_what_was_planned_and_no_more(finished_sweep: Finished) -> None:
    planned = sweep_queries(finished_sweep.sweep)
    assert planned is not None
    assert planned.sentence() in finished_sweep.ran.out.replace("\n", " ").replace("  ", " ")
    certifications = 1 + len(finished_sweep.directory.final_numbers())
    expected = 1 + QUERIES + certifications * IMAGES * (SAMPLES + 1)
    asked = finished_sweep.endpoint.images
    assert asked == expected <= planned.most
    ledger = read_json(finished_sweep.directory.queries_path)
    assert ledger["asked"] == ledger["answered"] == asked
    # Only the image that looks whether the endpoint answers, and no certificate's, comes twice.
    assert max(finished_sweep.endpoint.answered.values()) <= 2


def test_results_tell_both_and_the_leaderboard_who_was_certified(
    finished_sweep: Finished,
) -> None:
    directory = finished_sweep.directory
    for folder in (directory.trial(0), directory.final(0), directory.undefended):
        found = folder.read_result()
        assert found is not None
        assert {"classifier", "surrogate", "limited_data"} <= set(found["hashes"])
        assert found["hashes"]["classifier"] != found["hashes"]["surrogate"]
        assert 0 < found["agreement"] <= 1
    board = directory.leaderboard_markdown_path.read_text()
    assert "on held-out images (through the surrogate)" in board
    assert "on test images (on the endpoint) in %" in board
    assert "Held-out scores are through the surrogate, which agrees with the endpoint" in board
    assert "test certificates are the endpoint's own" in finished_sweep.ran.out.replace("\n", " ")


def test_certificates_without_a_denoiser_are_those_of_the_white_box(
    finished_sweep: Finished, target: Any, tmp_path: Path
) -> None:
    config = finished_sweep.directory.trial(0).read_record()
    assert config is not None
    settings = config.config
    white = settings.model_copy(update={"classifier": load_trial("digits", TARGET).classifier})
    execution = white.execution.model_copy(update={"precision": "fp32"})
    folder = TrialFolder(tmp_path)
    certify_undefended(
        white.model_copy(update={"execution": execution}),
        type(target)(
            target.classifier,
            target.limited,
            load_inputs(white, ContentCache(tmp_path / "cache"), CPU).test,
            target.class_names,
        ),
        folder,
    )
    expected, found = (
        certificates(CertificateTable.read_tsv(one.certificates_path))
        for one in (folder, finished_sweep.directory.undefended)
    )
    assert found == expected


def test_the_best_is_exported_with_the_url_and_the_unchosen_not_at_all(
    finished_sweep: Finished, tmp_path: Path
) -> None:
    directory, url = finished_sweep.directory, finished_sweep.endpoint.url
    bundle = load_bundle(directory.bundle_path, classifier=url)
    assert bundle.config.classifier.source == url
    verified = decrop("verify", directory.bundle_path, "--weights", url)
    assert verified.code == 0, verified.out + verified.err
    unchosen = set(directory.trial_numbers()) - set(directory.final_numbers())
    assert unchosen
    for number in unchosen:
        ran = decrop("export", directory.path, "--to", tmp_path / "x", "--trial", number)
        assert ran.code == 2
        assert "its certificates are of the surrogate" in ran.err
