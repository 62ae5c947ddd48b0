"""Trainings of classifiers and rejectors in MLflow, by the commands that train them."""

import shutil
import tomllib
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

import decrop.cli.tracking
import tune.mlflow.tracker
from decrop.bundle import load_bundle, verify_bundle
from decrop.files import read_json
from decrop.training.classifier import ClassifierTrainer
from tests.commands import Ran, set_options
from tests.commands import decrop as command
from tests.decrop.interrupted_training import interrupted_once
from tune.mlflow.tracked_training import TrackedTraining
from tune.mlflow.trainings import track_training

pytestmark = pytest.mark.usefixtures("one_thread")

URI = "http://127.0.0.1:9"
BUNDLE = Path(__file__).parents[2] / "data" / "bundles" / "format-10"
SHORT = (
    "classifier.training.objective=adre_reg",
    "classifier.training.epochs=3",
    "classifier.training.batch_size=512",
    "execution.device=cpu",
)


@pytest.fixture
def client(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """What is at the server's address: a store of the test's own."""
    (tmp_path / "server").mkdir()
    shutil.copy(empty_store, tmp_path / "server" / "mlflow.db")
    monkeypatch.chdir(tmp_path / "server")
    found = MlflowClient(f"sqlite:///{tmp_path / 'server' / 'mlflow.db'}")
    monkeypatch.setattr(tune.mlflow.tracker, "make_client", lambda uri: found)
    point = EntryPoint("mlflow", "tune.mlflow.trainings:track_training", "decrop.trackers")
    monkeypatch.setattr(decrop.cli.tracking, "entry_points", lambda **wanted: EntryPoints([point]))
    return found


def train(out: Path, *options: str) -> Ran:
    assignments = set_options(*SHORT)
    arguments = ("classifier", "train", "classifier_digits", *assignments, "--out", out)
    return command(*arguments, "--tracking-uri", URI, *options)


def runs_of(client: MlflowClient, experiment: str) -> list[Run]:
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    runs = client.search_runs([found.experiment_id], run_view_type=ViewType.ALL)
    return list(runs)


def points(client: MlflowClient, run: Run, metric: str) -> list[tuple[int, float]]:
    history = client.get_metric_history(run.info.run_id, metric)
    return [(point.step, point.value) for point in history]


def shown_by(run: Run) -> dict[str, Any]:
    """All that a run shows, without the mark of what was synced."""
    shown: dict[str, Any] = run.to_dictionary()
    del shown["data"]["tags"]["decrop.synced"]
    return shown


def artifacts(run: Run) -> dict[str, bytes]:
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.slow
def test_the_training_of_a_classifier_is_a_run(client: MlflowClient, tmp_path: Path) -> None:
    out = tmp_path / "trained"
    ran = train(out, "--experiment", "mine")
    assert ran.code == 0, ran.out + ran.err
    (run,) = runs_of(client, "mine")
    assert f"MLflow: {URI}/#/experiments/{run.info.experiment_id}/runs" in ran.out
    assert (run.info.run_name, run.info.status) == ("trained", "FINISHED")
    assert run.info.end_time >= run.info.start_time
    report = read_json(out / "report.json")
    for name in ("cross_entropy", "runner_up_cross_entropy", "total", "learning_rate"):
        expected = [(epoch["epoch"], epoch[name]) for epoch in report["epochs"]]
        assert points(client, run, f"train/{name}") == expected
    for name in ("clean_accuracy", "noisy_accuracy"):
        assert run.data.metrics[f"held_out/{name}"] == report["held_out"][name]
    parameters = run.data.params
    assert parameters["classifier.training.objective"] == "adre_reg"
    assert parameters["sigma"] == "0.35" and parameters["dataset.name"] == "digits"
    assert not any(name.startswith("denoiser.") for name in parameters)
    assert run.data.tags["hash.classifier"] == report["classifier"]
    shown = artifacts(run)
    assert set(shown) == {"settings.yaml", "report.json", "weights.safetensors"}
    assert all((out / name).read_bytes() == content for name, content in shown.items())

    again = train(out, "--experiment", "mine")
    assert again.code == 0
    (same,) = runs_of(client, "mine")
    assert shown_by(same) == shown_by(run)


@pytest.mark.slow
def test_a_training_that_goes_on_is_the_same_run(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "trained"
    with interrupted_once(monkeypatch, lambda trainer: trainer.epochs_done == 2):
        assert train(out).code == 130
    (before,) = runs_of(client, "classifier training")
    assert before.info.status == "KILLED"
    assert [step for step, _ in points(client, before, "train/total")] == [1, 2]
    assert train(out).code == 0
    (after,) = runs_of(client, "classifier training")
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    assert [step for step, _ in points(client, after, "train/total")] == [1, 2, 3]
    # Another training is another run of the same experiment; so is one anew in the same folder.
    assert train(tmp_path / "other").code == 0
    for name in ("report.json", "weights.safetensors"):
        (out / name).unlink()
    assert train(out).code == 0
    names = sorted(run.info.run_name for run in runs_of(client, "classifier training"))
    assert names == ["other", "trained", "trained"]


def test_a_training_that_fails_says_why(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(trainer: ClassifierTrainer) -> None:
        raise OSError("the device is gone")

    monkeypatch.setattr(ClassifierTrainer, "step", broken)
    assert train(tmp_path / "trained").code == 1
    (run,) = runs_of(client, "classifier training")
    assert run.info.status == "FAILED"
    assert "OSError: the device is gone" in run.data.tags["mlflow.note.content"]


@pytest.mark.slow
def test_the_training_of_a_rejector_is_a_run(client: MlflowClient, tmp_path: Path) -> None:
    out = tmp_path / "rejecting"
    settings = ("width=4", "hidden_units=8", "noise_draws=2", "epochs=2", "adam_epochs=1")
    assignments = [word for item in settings for word in ("--set", f"rejector.{item}")]
    ran = command(
        *("rejector", "train", BUNDLE, "--out", out, *assignments),
        *("--set", "certification.estimation_samples=40", "--tracking-uri", URI),
    )
    assert ran.code == 0, ran.out + ran.err
    (run,) = runs_of(client, "rejector training")
    assert (run.info.run_name, run.info.status) == ("rejecting", "FINISHED")
    history = read_json(out / "rejector_history.json")
    assert points(client, run, "train/loss") == [(row["epoch"], row["loss"]) for row in history]
    bundle = load_bundle(out)
    assert bundle.rejector is not None
    assert run.data.metrics["held_out/rejected"] == bundle.rejector.held_out.rejected
    assert len(points(client, run, "certified/test")) > 10
    radius = bundle.result.scores.average_certified_radius
    assert run.data.metrics["test/average_certified_radius"] == radius
    assert run.data.params["rejector.width"] == "4"
    assert run.data.params["certification.certificate"] == "rejection"
    shown = artifacts(run)
    names = {"rejector.safetensors", "config.json", "certificates.tsv", "README.md"}
    assert set(shown) > names
    assert all((out / name).read_bytes() == shown[name] for name in names)
    # What tracking keeps is not in the bundle, which goes to others.
    assert verify_bundle(bundle) == len(bundle.certificates.idx)
    assert not list(out.glob(".*"))

    # As if the process had been killed before it wrote down the end.
    folder = TrackedTraining("rejector", out)
    record = folder.read_record()
    assert record is not None
    folder.write_record(record.model_copy(update={"status": "RUNNING", "ended": None}))
    synced = command("sync", out, "--tracking-uri", URI)
    assert (synced.code, synced.out.strip()) == (0, "MLflow is up to date")
    (same,) = runs_of(client, "rejector training")
    assert (same.info.run_id, same.info.status) == (run.info.run_id, "FINISHED")
    assert shown_by(same)["data"] == shown_by(run)["data"]


def test_refused_input_leaves_nothing(client: MlflowClient, tmp_path: Path) -> None:
    out = tmp_path / "trained"
    assert train(out, "--set", "classifier.training=null").code == 2
    assert not out.exists() and not runs_of(client, "classifier training")
    assert client.get_experiment_by_name("classifier training") is None
    assert train(out).code == 0
    (run,) = runs_of(client, "classifier training")
    # A folder of other settings stays what it is.
    refused = train(out, "--set", "sigma=0.5")
    assert refused.code == 2 and "other settings" in refused.err
    (same,) = runs_of(client, "classifier training")
    assert shown_by(same) == shown_by(run)
    for uri in ("127.0.0.1:5000", "http://me:secret@127.0.0.1:5000"):
        ran = train(out, "--tracking-uri", uri)
        assert ran.code == 2 and "tracking uri" in ran.err.lower()


def test_mlflow_that_is_away_delays_nothing_and_catches_up(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "trained"

    def away(_: str) -> MlflowClient:
        raise MlflowException("no route to MLflow")

    with monkeypatch.context() as patched:
        patched.setattr(tune.mlflow.tracker, "make_client", away)
        ran = train(out)
    assert ran.code == 0
    (warning,) = [line for line in ran.out.splitlines() if line.startswith("warning:")]
    assert "no route to MLflow" in warning
    catching_up = f"decrop sync {out} --tracking-uri {URI}"
    assert warning.endswith(catching_up)
    refused = command("sync", out)
    assert refused.code == 2 and "give its server with --tracking-uri" in refused.err
    for _ in range(2):
        assert command(*catching_up.split()[1:]).code == 0
        (run,) = runs_of(client, "classifier training")
        assert run.info.status == "FINISHED"


def test_a_record_of_a_training_that_is_broken_is_named(tmp_path: Path) -> None:
    folder = TrackedTraining("classifier", tmp_path / "trained")
    folder.state_path.mkdir(parents=True)
    folder.record_path.write_text("{}")
    ran = command("sync", folder.path, "--tracking-uri", URI)
    assert ran.code == 2 and str(folder.record_path) in ran.err


def test_the_tracker_is_registered() -> None:
    document = tomllib.loads(Path("pyproject.toml").read_text())
    points = document["project"]["entry-points"]["decrop.trackers"]
    found = {name: EntryPoint(name, value, "").load() for name, value in points.items()}
    assert found == {"mlflow": track_training}
