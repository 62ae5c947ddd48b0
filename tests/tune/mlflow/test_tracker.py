"""The sweep directory as MLflow shows it."""

import json

import pytest
from mlflow.tracking import MlflowClient

from decrop.files import write_json
from tests.tune.mlflow.view_makers import RUN_NAMES, Shown, artifact_folder, write_everything
from tests.tune.sweeps import (
    ENDED,
    STARTED,
    write_board,
    write_complete_trial,
)
from tune.directory import SweepDirectory
from tune.mlflow.client import TrackingError
from tune.mlflow.tracker import Tracker

STARTED_MS = int(STARTED.timestamp() * 1000)


ENDED_MS = int(ENDED.timestamp() * 1000)


def test_a_finished_sweep_is_shown_whole(directory: SweepDirectory) -> None:
    write_everything(directory)
    tracker = Tracker(directory)
    tracker.sync()
    shown = Shown.of(tracker)

    assert shown.names() == RUN_NAMES
    assert not any("mlflow.parentRunId" in run.data.tags for run in shown.runs())
    trial = shown.run("trial 1")
    assert (trial.info.status, trial.info.start_time, trial.info.end_time) == (
        "FINISHED",
        STARTED_MS,
        ENDED_MS,
    )
    assert shown.run("trial 2").info.status == "FINISHED"
    assert shown.run("digits").info.status == "FINISHED"
    assert trial.data.params["training.loss_weights.cosine"] == "4.0"
    assert trial.data.params["sigma"] == "0.25"
    assert trial.data.tags["decrop.key"] == f"{directory.read_record().id}/trials/1"
    assert shown.points("trial 1", "train/total") == [(1, 3.0), (2, 1.5), (3, 1.0)]
    assert shown.points("trial 1", "held_out/average_certified_radius") == [(1, 0.1), (2, 0.2)]
    curve = dict(shown.points("final 1 (test)", "certified/test"))
    assert len(curve) == 26
    assert curve[250] == pytest.approx(0.5)
    assert shown.points("digits", "sweep/best_so_far") == [(0, 0.2), (1, 0.3), (2, 0.3)]


def test_the_experiment_carries_name_key_and_description(directory: SweepDirectory) -> None:
    shown = Shown.of(Tracker(directory))
    record = directory.read_record()
    experiment = shown.client.get_experiment(shown.experiment_id)
    assert experiment.name == f"digits {record.created:%Y-%m-%d %H:%M:%S}"
    assert experiment.artifact_location == f"mlflow-artifacts:/{record.id}"
    assert experiment.tags["decrop.key"] == f"{record.id}/experiment"
    assert experiment.tags["mlflow.note.content"].startswith("A sweep over ")


def test_a_broken_leaderboard_keeps_no_trial_from_being_seen(directory: SweepDirectory) -> None:
    write_complete_trial(directory.trial(0), 0)
    tracker = Tracker(directory)
    tracker.experiment_id()
    directory.leaderboard_json_path.write_text("{}")
    with pytest.raises(TrackingError, match=r"first the page: .*leaderboard\.json: radii: "):
        tracker.sync()
    assert Shown.of(tracker).run("trial 0").info.status == "FINISHED"


@pytest.mark.parametrize("restarted", [False, True])
def test_a_description_that_someone_wrote_in_mlflow_stays(
    directory: SweepDirectory, restarted: bool
) -> None:
    tracker = Tracker(directory)
    tracker.sync()
    shown = Shown.of(tracker)
    shown.client.set_experiment_tag(shown.experiment_id, "mlflow.note.content", "my own")
    write_board(directory)
    (Tracker(directory) if restarted else tracker).sync()
    assert note_of(shown) == "my own"


@pytest.mark.parametrize("calls", [1, 2])
def test_a_description_whose_writing_broke_off_is_caught_up(
    directory: SweepDirectory, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    tracker = Tracker(directory)
    tracker.sync()
    write_board(directory)
    original, done = MlflowClient.set_experiment_tag, 0

    def breaking_off(*arguments: object) -> None:
        nonlocal done
        original(*arguments)  # type: ignore[arg-type]
        done += 1
        if done == calls:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_experiment_tag", breaking_off)
        with pytest.raises(KeyboardInterrupt):
            tracker.sync()
    Tracker(directory).sync()
    assert note_of(Shown.of(tracker)).startswith("Trial 1 won.")


def note_of(shown: Shown) -> str:
    return str(shown.client.get_experiment(shown.experiment_id).tags["mlflow.note.content"])


def test_a_view_of_an_earlier_version_is_replaced(directory: SweepDirectory) -> None:
    tracker = Tracker(directory)
    shown = Shown.of(tracker)
    tag = "mlflow.sharedViewState.all-trials"
    state = shown.client.get_experiment(shown.experiment_id).tags[tag]
    shown.client.set_experiment_tag(shown.experiment_id, tag, "{}")
    Tracker(directory).sync()
    assert shown.client.get_experiment(shown.experiment_id).tags[tag] == state


def test_data_and_classifier_are_inputs_and_certificates_a_table(directory: SweepDirectory) -> None:
    write_everything(directory)
    hashes = {"classifier": "a" * 64, "limited_data": "b" * 64}
    write_json(directory.trial(0).inputs_path, hashes)
    Tracker(directory).sync()
    Tracker(directory).sync()
    shown = Shown.of(Tracker(directory))
    run = shown.run("trial 0")
    inputs = {put.dataset.name: put for put in run.inputs.dataset_inputs}
    assert set(inputs) == {"cifar10: limited data", "classifier: auto"}
    data = inputs["cifar10: limited data"]
    assert data.dataset.digest == "b" * 36
    assert "b" * 64 in data.dataset.source
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "training")]
    tables = json.loads(run.data.tags["mlflow.loggedArtifacts"])
    assert tables == [{"path": "certificates.json", "type": "table"}]
    table = json.loads((artifact_folder(directory, run) / "certificates.json").read_text())
    assert table["columns"][:3] == ["idx", "label", "predict"]
    assert len(table["data"]) == 10


def test_artifacts_are_copied_without_the_checkpoint(directory: SweepDirectory) -> None:
    write_everything(directory)
    tracker = Tracker(directory)
    tracker.sync()
    folder = artifact_folder(directory, Shown.of(tracker).run("trial 0"))
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "trial.json",
        "certificates.tsv",
        "certificates.json",
        "denoiser.safetensors",
        "figures/certified_accuracy.png",
    }
    original = directory.trial(0).denoiser_path.read_bytes()
    assert (folder / "denoiser.safetensors").read_bytes() == original
