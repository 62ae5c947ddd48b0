"""A tiny real sweep of trials that train their classifier, with no denoiser."""

from typing import Any

import pytest
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient

from decrop.bundle import load_bundle, verify_bundle
from decrop.classifiers.storage import load_stored_classifier
from decrop.files import read_json
from tests.commands import decrop
from tests.tune.runs import (
    TINY,
    FinishedSweep,
    finished_sweep,
    running_on,
    tracked_runs,
    write_sweep,
)
from tune.cluster import ClusterSize

SWEEP: dict[str, Any] = {
    **{name: TINY[name] for name in ("base", "trial")},
    "name": "classifiers",
    "search": "grid",
    "space": {"classifier.training.objective": {"choice": ["gaussian", "adre_reg"]}},
    "resources": {"trial": {"cpu": 1}, "max_helpers": 0},
    "leaderboard": {"top": 1},
}
TRIAL = {
    "denoiser": {"source": "none"},
    "classifier": {
        "training": {
            "objective": "gaussian",
            "noise_samples": 2,
            "trained_on": "without_held_out",
            "epochs": 2,
            "batch_size": 256,
        }
    },
    "training": {"evaluations": 2},
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def swept(local_ray: ClusterSize, tmp_path_factory: pytest.TempPathFactory) -> FinishedSweep:
    folder = tmp_path_factory.mktemp("classifiers")
    file = write_sweep(folder, SWEEP, trial=TRIAL)
    return finished_sweep(local_ray, file)


def test_trials_train_classifiers_and_finals_certify_them(swept: FinishedSweep) -> None:
    directory = swept.directory
    assert directory.trial_numbers() == [0, 1]
    assert "trial 0 started (as given)" in swept.ran.out
    assert "certifying test images: " in swept.ran.out
    hashes = []
    for number in directory.trial_numbers():
        folder = directory.trial(number)
        assert [row["epoch"] for row in folder.read_history()] == [1, 2]
        assert [report["finished"] for report in folder.read_reports()] == [False, True]
        classifier, _ = load_stored_classifier(folder.classifier_path)
        hashes.append(classifier.content_hash())
    assert len(set(hashes)) == 2
    for number in directory.final_numbers():
        result = directory.final(number).read_result()
        assert result is not None and result["split"] == "test"
        assert result["hashes"]["classifier"] == hashes[number]
    assert swept.ran.last_line["stage1_computed"] == 0
    assert not directory.undefended.path.exists()


def test_leaderboard_speaks_of_classifiers(swept: FinishedSweep) -> None:
    text = swept.directory.leaderboard_markdown_path.read_text()
    assert "denoiser" not in text and "paper" not in text
    assert "| trial 0, reference |" in text and "| rank | classifier |" in text
    board = read_json(swept.directory.leaderboard_json_path)
    assert board["undefended"] is None is swept.ran.last_line["undefended"]
    assert all(entry["trains_classifier"] for entry in board["entries"])
    report = decrop("report", swept.directory.path)
    assert report.code == 0 and "| classifier | r = 0" in report.out


def test_the_best_is_exported_and_verified(swept: FinishedSweep) -> None:
    path = swept.directory.bundle_path
    bundle = load_bundle(path)
    assert bundle.config.trains == "classifier"
    assert verify_bundle(bundle) == len(bundle.certificates.idx) == 20
    assert bundle.result.split == "test"
    card = " ".join((path / "README.md").read_text().split())
    assert "Certified on test images as it was trained, without the held-out ones." in card
    assert "paper's choice" not in card


def test_mlflow_shows_the_classifiers_training(swept: FinishedSweep) -> None:
    directory = swept.directory
    finals = {f"final/{number}" for number in directory.final_numbers()}
    assert set(tracked_runs(directory)) == {"trials/0", "trials/1", "sweep"} | finals
    assert set(tracked_runs(directory).values()) == {1}
    client = MlflowClient(f"sqlite:///{directory.mlflow_database_path}")
    experiments = [found.experiment_id for found in client.search_experiments()]
    runs = client.search_runs(experiments, run_view_type=ViewType.ALL)
    (trial,) = (run for run in runs if run.info.run_name == "trial 1")
    for name in ("train/cross_entropy", "train/runner_up_cross_entropy", "train/learning_rate"):
        history = client.get_metric_history(trial.info.run_id, name)
        assert [point.step for point in history] == [1, 2]
    assert len(client.get_metric_history(trial.info.run_id, "certified/held_out")) > 10
    assert trial.data.params["classifier.training.objective"] == "adre_reg"
    (place,) = directory.mlflow_artifacts_path.glob(f"*/{trial.info.run_id}/artifacts/classifier")
    weights = "weights.safetensors"
    stored = directory.trial(1).classifier_path / weights
    assert (place / weights).read_bytes() == stored.read_bytes()
    audited = decrop("audit", directory.path, "--json")
    assert audited.code == 0, audited.out


@pytest.mark.slow
def test_a_resumed_sweep_repeats_nothing(swept: FinishedSweep, local_ray: ClusterSize) -> None:
    with running_on(local_ray):
        ran = decrop("resume", swept.directory.path, "--json")
    assert ran.code == 0, ran.out + ran.err
    assert "started" not in ran.out and "certified (" not in ran.out
    assert ran.last_line == swept.ran.last_line
