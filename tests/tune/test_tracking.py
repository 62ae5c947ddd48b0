import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from mlflow.entities import Run, ViewType
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient

from decrop.config import DatasetSettings, TrialConfig
from decrop.errors import InputError
from decrop.files import write_json, write_text
from tests.tune.sweeps import (
    CERTIFICATES,
    ENDED,
    STARTED,
    begin,
    end,
    make_sweep,
    result,
    write_complete_trial,
    write_outcome,
    write_progress,
)
from tune.directory import SweepDirectory, TrialState
from tune.tracking import Tracker, TrackingError, TrackingThread, experiment_page

STARTED_MS = int(STARTED.timestamp() * 1000)
ENDED_MS = int(ENDED.timestamp() * 1000)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated store without experiments of ours: migrating one takes a second."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def directory(tmp_path: Path, empty_store: Path) -> SweepDirectory:
    made = make_sweep(tmp_path)
    shutil.copy(empty_store, made.mlflow_database_path)
    return made


@pytest.fixture(scope="module")
def full_sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepDirectory:
    """A sweep that has ended, tracked in its own store, then moved elsewhere."""
    parent = tmp_path_factory.mktemp("sweeps")
    made = make_sweep(parent / "before")
    write_everything(made)
    Tracker(made).sync()
    moved = parent / "after" / "the move"
    moved.parent.mkdir()
    shutil.move(made.path, moved)
    return SweepDirectory.open(moved)


@pytest.fixture(scope="module")
def server(full_sweep: SweepDirectory) -> Iterator[str]:
    """An MLflow server over the moved sweep's own store and artifacts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [
        *("--backend-store-uri", f"sqlite:///{full_sweep.mlflow_database_path}"),
        *("--artifacts-destination", str(full_sweep.mlflow_artifacts_path)),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
    ]
    environment = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "mlflow", "server", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_healthy(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_until_healthy(url: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{url}/health", timeout=1).close()
            return
        except (urllib.error.URLError, TimeoutError):
            assert process.poll() is None, "the server ended"
            time.sleep(0.1)
    raise AssertionError("the server never became healthy")


def write_everything(directory: SweepDirectory) -> None:
    write_complete_trial(directory.trial(0), 0, radius=0.2)
    write_complete_trial(directory.trial(1), 1, radius=0.3)
    begin(directory.trial(2), 2)
    write_progress(directory.trial(2), epochs=1, evaluations=1)
    end(directory.trial(2), "pruned")
    for number in (0, 1):
        write_complete_trial(directory.final(number), number, split="test", radius=0.25)
    directory.undefended.path.mkdir()
    write_outcome(directory.undefended, split="test", radius=0.05)
    write_json(directory.leaderboard_json_path, [{"rank": 1, "trial": 1}])
    write_text(directory.leaderboard_markdown_path, "| rank | trial |\n")


RUN_NAMES = Counter(
    [
        *("trial 0", "trial 1", "trial 2", "final 0 (test)", "final 1 (test)"),
        *("undefended (test)", "digits"),
    ]
)


@dataclass(frozen=True)
class Shown:
    """What a client sees of a sweep, whatever store it is in."""

    client: MlflowClient
    experiment_id: str

    @classmethod
    def of(cls, tracker: Tracker, uri: str | None = None) -> "Shown":
        own = f"sqlite:///{tracker.directory.mlflow_database_path}"
        return cls(MlflowClient(uri or own), tracker.experiment_id())

    def runs(self) -> list[Run]:
        return list(self.client.search_runs([self.experiment_id], run_view_type=ViewType.ALL))

    def names(self) -> Counter[str]:
        return Counter(str(run.info.run_name) for run in self.runs())

    def run(self, name: str) -> Run:
        [found] = [run for run in self.runs() if run.info.run_name == name]
        return found

    def points(self, name: str, metric: str) -> list[tuple[int, float]]:
        history = self.client.get_metric_history(self.run(name).info.run_id, metric)
        return sorted((point.step, point.value) for point in history)

    def everything(self) -> dict[str, object]:
        """All that a second sync must leave as it is, the time stamps of points included."""
        return {
            run.info.run_id: (
                run.info.to_proto().SerializeToString(),
                run.data.params,
                run.data.tags,
                {
                    metric: sorted(
                        (point.step, point.timestamp, point.value)
                        for point in self.client.get_metric_history(run.info.run_id, metric)
                    )
                    for metric in run.data.metrics
                },
            )
            for run in self.runs()
        }


def artifact_folder(directory: SweepDirectory, run: Run) -> Path:
    identity = directory.read_record().id
    return directory.mlflow_artifacts_path / identity / str(run.info.run_id) / "artifacts"


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
    assert shown.run("trial 2").info.status == "KILLED"
    assert shown.run("digits").info.status == "FINISHED"
    assert trial.data.params["training.loss_weights.cosine"] == "4.0"
    assert trial.data.params["sigma"] == "0.25"
    assert trial.data.tags["decrop.key"] == f"{directory.read_record().id}/trials/1"
    assert shown.points("trial 1", "train/total") == [(1, 3.0), (2, 1.5), (3, 1.0)]
    assert shown.points("trial 1", "held_out/average_certified_radius") == [(1, 0.1), (2, 0.2)]
    curve = dict(shown.points("final 1 (test)", "certified/test"))
    assert len(curve) == 25
    assert curve[250] == pytest.approx(0.5)
    assert shown.points("digits", "sweep/best_so_far") == [(0, 0.2), (1, 0.3), (2, 0.3)]


def test_the_experiment_carries_name_key_and_description(directory: SweepDirectory) -> None:
    shown = Shown.of(Tracker(directory))
    record = directory.read_record()
    experiment = shown.client.get_experiment(shown.experiment_id)
    assert experiment.name == f"digits {record.created:%Y-%m-%d %H:%M:%S}"
    assert experiment.artifact_location == f"mlflow-artifacts:/{record.id}"
    assert experiment.tags["decrop.key"] == f"{record.id}/experiment"
    assert experiment.tags["mlflow.note.content"].startswith("**digits**")


def test_the_description_says_what_won_once_that_is_known(directory: SweepDirectory) -> None:
    tracker = Tracker(directory)
    tracker.sync()
    shown = Shown.of(tracker)
    assert "not finished yet" in note_of(shown)
    write_text(directory.leaderboard_markdown_path, "| rank |\n| --- |\n| 1 |\n\nTrial 1 won.\n")
    tracker.sync()
    assert note_of(shown).startswith("**digits**: Trial 1 won.")


@pytest.mark.parametrize("restarted", [False, True])
def test_a_description_that_someone_wrote_in_mlflow_stays(
    directory: SweepDirectory, restarted: bool
) -> None:
    tracker = Tracker(directory)
    tracker.sync()
    shown = Shown.of(tracker)
    shown.client.set_experiment_tag(shown.experiment_id, "mlflow.note.content", "my own")
    write_text(directory.leaderboard_markdown_path, "| rank |\n| --- |\n| 1 |\n\nTrial 1 won.\n")
    (Tracker(directory) if restarted else tracker).sync()
    assert note_of(shown) == "my own"


@pytest.mark.parametrize("calls", [1, 2])
def test_a_description_whose_writing_broke_off_is_caught_up(
    directory: SweepDirectory, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    tracker = Tracker(directory)
    tracker.sync()
    write_text(directory.leaderboard_markdown_path, "| rank |\n| --- |\n| 1 |\n\nTrial 1 won.\n")
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
    assert note_of(Shown.of(tracker)).startswith("**digits**: Trial 1 won.")


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


@pytest.mark.parametrize("restarted", [False, True])
def test_a_second_sync_changes_nothing(directory: SweepDirectory, restarted: bool) -> None:
    write_everything(directory)
    tracker = Tracker(directory)
    tracker.sync()
    before = Shown.of(tracker).everything()
    (Tracker(directory) if restarted else tracker).sync()
    assert Shown.of(tracker).everything() == before


@pytest.mark.parametrize("restarted", [False, True])
def test_an_unchanged_sweep_costs_no_call(
    directory: SweepDirectory, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    write_everything(directory)
    tracker = Tracker(directory)
    tracker.sync()
    for method in ("log_batch", "get_metric_history", "create_run", "set_terminated"):
        monkeypatch.setattr(MlflowClient, method, _must_not_be_called)
    if restarted:
        tracker = Tracker(directory)
        tracker.sync()
    monkeypatch.setattr(MlflowClient, "search_runs", _must_not_be_called)
    tracker.sync()


def _must_not_be_called(*_: object, **__: object) -> None:
    raise AssertionError("nothing has changed")


@pytest.mark.parametrize("restarted", [False, True])
def test_only_what_is_new_is_logged(
    directory: SweepDirectory, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    folder = directory.trial(0)
    begin(folder, 0)
    write_progress(folder, epochs=2, evaluations=1)
    tracker = Tracker(directory)
    tracker.sync()
    shown = Shown.of(tracker)
    assert shown.run("trial 0").info.status == "RUNNING"
    assert shown.run("trial 0").info.end_time is None

    logged: list[tuple[str, int]] = []
    log_batch = MlflowClient.log_batch

    def recording(client: MlflowClient, run_id: str, metrics: list, **rest: object) -> None:  # type: ignore[type-arg]
        logged.extend((metric.key, metric.step) for metric in metrics)
        log_batch(client, run_id, metrics=metrics, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(MlflowClient, "log_batch", recording)
    write_progress(folder, epochs=3, evaluations=2)
    (Tracker(directory) if restarted else tracker).sync()
    assert {step for metric, step in logged if metric.startswith("train/")} == {3}
    assert {step for metric, step in logged if metric.startswith("held_out/")} == {2}
    assert shown.points("trial 0", "train/mmd") == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]

    write_outcome(folder)
    end(folder)
    (Tracker(directory) if restarted else tracker).sync()
    assert shown.run("trial 0").info.status == "FINISHED"
    assert len(shown.points("trial 0", "certified/held_out")) == 25
    assert len(logged) == len(set(logged))


# Where a sync can break off, and after how many calls that were carried out.
INTERRUPTIONS = [
    *(("create_run", calls) for calls in (1, 3)),
    *(("log_batch", calls) for calls in (1, 4)),
    *(("set_terminated", 1), ("log_inputs", 1), ("create_experiment", 1)),
]


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(("method", "calls"), INTERRUPTIONS)
def test_a_sync_that_broke_off_is_caught_up_without_doubles(
    directory: SweepDirectory, method: str, calls: int, restarted: bool
) -> None:
    write_everything(directory)
    write_json(directory.trial(0).inputs_path, {"limited_data": "b" * 64})
    tracker = Tracker(directory)
    original = getattr(MlflowClient, method)
    done = 0

    def breaking_off(*arguments: object, **rest: object) -> object:
        nonlocal done
        answer = original(*arguments, **rest)
        done += 1
        if done == calls:  # Applied by MLflow, but its answer never came.
            raise KeyboardInterrupt
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, method, breaking_off)
        with pytest.raises(KeyboardInterrupt):
            tracker.sync()

    (Tracker(directory) if restarted else tracker).sync()
    shown = Shown.of(tracker)
    assert shown.names() == RUN_NAMES
    assert len(shown.client.search_experiments()) == 2  # MLflow's own "Default" is the other.
    for run in shown.runs():
        for metric in run.data.metrics:
            history = shown.client.get_metric_history(run.info.run_id, metric)
            assert len(history) == len({point.step for point in history})
        assert run.info.status in ("FINISHED", "KILLED")
    assert len(shown.points("final 0 (test)", "certified/test")) == 25
    assert shown.points("trial 0", "train/total") == [(1, 3.0), (2, 1.5), (3, 1.0)]
    assert (artifact_folder(directory, shown.run("trial 0")) / "figures").is_dir()


def test_two_trackers_at_once_make_each_run_once(directory: SweepDirectory) -> None:
    write_everything(directory)
    trackers = [Tracker(directory) for _ in range(2)]
    threads = [threading.Thread(target=tracker.sync) for tracker in trackers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Shown.of(trackers[0]).names() == RUN_NAMES


def test_a_run_that_another_tracker_made_meanwhile_is_found(directory: SweepDirectory) -> None:
    first, second = Tracker(directory), Tracker(directory)
    for number, tracker in enumerate((first, second, first)):
        write_complete_trial(directory.trial(number), number)
        tracker.sync()
    write_progress(directory.trial(1), epochs=4, evaluations=2)
    first.sync()
    shown = Shown.of(first)
    assert shown.names() == Counter(["trial 0", "trial 1", "trial 2", "digits"])
    assert len(shown.points("trial 1", "train/total")) == 4


def test_a_short_trial_costs_few_requests(server: str, tmp_path: Path) -> None:
    directory = make_sweep(tmp_path, "short")
    tracker = Tracker(directory, server)
    tracker.sync()
    sent: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        original = requests.Session.request

        def recording(session: requests.Session, method: str, url: str, **rest: Any) -> Any:
            sent.append(f"{method} {urlsplit(url).path.rpartition('/')[2]}")
            return original(session, method, url, **rest)

        patch.setattr(requests.Session, "request", recording)
        # The first finds out once what is there.
        for number in (0, 1):
            sent.clear()
            begin(directory.trial(number), number)
            write_progress(directory.trial(number), epochs=3, evaluations=2)
            write_json(directory.trial(number).result_path, result())
            write_json(directory.trial(number).inputs_path, {"limited_data": "b" * 64})
            end(directory.trial(number))
            tracker.sync()
    of_the_sweep = 1
    assert Counter(sent) == Counter(
        ["POST create", "PUT trial.json", "POST log-inputs", "POST update"]
        + ["POST log-batch"] * (1 + of_the_sweep)
    )


def test_metrics_are_shown_while_artifacts_cannot_be(
    directory: SweepDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_complete_trial(directory.trial(0), 0)
    tracker = Tracker(directory)

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LocalArtifactRepository, "log_artifact", full)
        with pytest.raises(TrackingError, match="no space left"):
            tracker.sync()
    shown = Shown.of(tracker)
    assert shown.points("trial 0", "train/total") == [(1, 3.0), (2, 1.5), (3, 1.0)]
    assert "decrop.synced" not in shown.run("trial 0").data.tags
    tracker.sync()
    assert (artifact_folder(directory, shown.run("trial 0")) / "certificates.tsv").exists()
    assert len(shown.points("trial 0", "train/total")) == 3


@pytest.mark.parametrize("epochs", [3, 250])
def test_a_run_counts_as_synced_after_all_that_it_shows(
    directory: SweepDirectory, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    begin(directory.trial(0), 0)
    write_progress(directory.trial(0), epochs=epochs, evaluations=2)
    requests_sent: list[tuple[int, set[str]]] = []
    log_batch = SqlAlchemyStore.log_batch

    def recording(store: Any, run_id: str, metrics: Any, params: Any, tags: Any) -> None:
        requests_sent.append((len(metrics), {tag.key for tag in tags}))
        log_batch(store, run_id=run_id, metrics=metrics, params=params, tags=tags)

    monkeypatch.setattr(SqlAlchemyStore, "log_batch", recording)
    Tracker(directory).sync()
    of_the_trial = requests_sent[:-1]
    assert sum(count for count, _ in of_the_trial) > 5 * epochs
    synced = ["decrop.synced" in tags for _, tags in of_the_trial]
    assert synced == [False] * (len(synced) - 1) + [True]
    assert (len(synced) == 1) == (epochs == 3)


def test_a_trial_that_is_taken_up_again_runs_again(directory: SweepDirectory) -> None:
    folder = directory.trial(0)
    begin(folder, 0)
    end(folder, "failed", error="Traceback\nRuntimeError: out of memory")
    tracker = Tracker(directory)
    tracker.sync()
    shown = Shown.of(tracker)
    assert shown.run("trial 0").info.status == "FAILED"
    assert "out of memory" in shown.run("trial 0").data.tags["mlflow.note.content"]

    folder.write_state(TrialState(state="running", started=STARTED))
    tracker.sync()
    assert shown.run("trial 0").info.status == "RUNNING"
    assert shown.run("trial 0").data.tags["state"] == "running"
    assert shown.run("trial 0").data.tags["mlflow.note.content"] == ""


def test_a_replaced_artifact_is_copied_again(directory: SweepDirectory) -> None:
    write_complete_trial(directory.trial(0), 0)
    tracker = Tracker(directory)
    tracker.sync()
    copy = artifact_folder(directory, Shown.of(tracker).run("trial 0")) / "certificates.tsv"
    write_text(directory.trial(0).certificates_path, CERTIFICATES + "10\t3\t3\t0.1\t1\t0:00:01\n")
    tracker.sync()
    assert copy.read_text().endswith("10\t3\t3\t0.1\t1\t0:00:01\n")


def test_a_long_parameter_is_cut_to_what_mlflow_takes(directory: SweepDirectory) -> None:
    long = "a/" * 4000
    begin(directory.trial(0), 0, TrialConfig(dataset=DatasetSettings(path=long)))
    tracker = Tracker(directory)
    tracker.sync()
    shown = Shown.of(tracker)
    assert shown.run("trial 0").data.params["dataset.path"] == long[:6000]
    directory.trial(0).write_state(TrialState(state="running", started=STARTED))
    tracker.sync()


def test_a_broken_folder_does_not_hide_the_others(directory: SweepDirectory) -> None:
    write_everything(directory)
    directory.trial(0).history_path.write_text('[{"epoch": 1')
    tracker = Tracker(directory)
    with pytest.raises(TrackingError, match=r"1 of .*'s runs .* trials/0: .*history\.json"):
        tracker.sync()
    assert Shown.of(tracker).names() == RUN_NAMES - Counter(["trial 0"])

    write_progress(directory.trial(0), epochs=3, evaluations=2)
    tracker.sync()
    assert Shown.of(tracker).names() == RUN_NAMES


@pytest.mark.parametrize("restarted", [False, True])
def test_a_run_that_was_deleted_in_mlflow_stays_deleted(
    directory: SweepDirectory, restarted: bool
) -> None:
    write_everything(directory)
    tracker = Tracker(directory)
    tracker.sync()
    shown = Shown.of(tracker)
    shown.client.delete_run(shown.run("trial 1").info.run_id)
    write_text(directory.trial(1).certificates_path, CERTIFICATES)
    if restarted:
        tracker = Tracker(directory)
    else:
        with pytest.raises(TrackingError, match=r"1 of .*'s runs .* trials/1: "):
            tracker.sync()
    tracker.sync()
    assert shown.names() == RUN_NAMES
    assert shown.run("trial 1").info.lifecycle_stage == "deleted"


def test_a_deleted_experiment_is_an_error_that_says_so(directory: SweepDirectory) -> None:
    shown = Shown.of(Tracker(directory))
    shown.client.delete_experiment(shown.experiment_id)
    with pytest.raises(TrackingError, match="was deleted; restore it"):
        Tracker(directory).sync()


def test_a_name_that_is_taken_does_not_mix_sweeps(directory: SweepDirectory) -> None:
    record = directory.read_record()
    client = MlflowClient(f"sqlite:///{directory.mlflow_database_path}")
    taken = client.create_experiment(f"digits {record.created:%Y-%m-%d %H:%M:%S}")
    tracker = Tracker(directory)
    assert tracker.experiment_id() != taken
    assert record.id in client.get_experiment(tracker.experiment_id()).name


@pytest.mark.parametrize("uri", ["sqlite:///x.db", "file:///tmp/x", "localhost:5000", "http://"])
def test_only_servers_are_tracking_uris(directory: SweepDirectory, uri: str) -> None:
    with pytest.raises(InputError, match="is no server"):
        Tracker(directory, uri)


def test_credentials_in_the_uri_are_refused_without_repeating_them(
    directory: SweepDirectory,
) -> None:
    with pytest.raises(InputError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        Tracker(directory, "https://ann:secret@example.org")
    assert "secret" not in str(caught.value)


def test_a_path_that_is_no_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sweep directory"):
        Tracker(SweepDirectory(tmp_path))


def test_a_server_that_is_away_is_one_error_soon(directory: SweepDirectory) -> None:
    write_everything(directory)
    with socket.socket() as bound:  # Bound but not listening: connections are refused.
        bound.bind(("127.0.0.1", 0))
        tracker = Tracker(directory, f"http://127.0.0.1:{bound.getsockname()[1]}")
        begun = time.monotonic()
        with pytest.raises(TrackingError, match="MLflow cannot be updated") as caught:
            tracker.sync()
    assert time.monotonic() - begun < 5
    assert "\n" not in str(caught.value)


def test_a_store_whose_making_was_cut_off_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_sweep(tmp_path)

    def killed(engine: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        # By then some of the tables are there.
        patch.setattr("mlflow.store.db.utils._upgrade_db", killed)
        with pytest.raises(SystemExit):
            Tracker(directory).sync()
    Tracker(directory).sync()
    assert [run.key for run in Tracker(directory).logged_runs()] == ["sweep"]


def test_making_the_store_prints_nothing(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    write_complete_trial(directory.trial(0), 0)
    program = (
        "import sys; from pathlib import Path; from tune.directory import SweepDirectory; "
        "from tune.tracking import Tracker; Tracker(SweepDirectory(Path(sys.argv[1]))).sync()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(directory.path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == [directory.path.name]


def test_the_thread_syncs_while_running_and_once_more_at_the_end(
    directory: SweepDirectory,
) -> None:
    begin(directory.trial(0), 0)
    tracker = Tracker(directory)
    tracker.experiment_id()
    thread = TrackingThread(tracker, interval=0.05)
    thread.start()
    try:
        shown = Shown.of(tracker)
        deadline = time.monotonic() + 20
        while "trial 0" not in shown.names():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        write_everything(directory)
        thread.stop()
    assert shown.names() == RUN_NAMES
    assert thread.closing_warning() is None


def test_the_thread_outlives_errors_and_logs_them_once(
    directory: SweepDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_everything(directory)
    tracker = Tracker(directory)
    tracker.experiment_id()
    failed_twice = threading.Event()
    calls = 0

    def away(_: MlflowClient, *__: object, **___: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            failed_twice.set()
        raise ConnectionError("no route to MLflow")

    thread = TrackingThread(tracker, interval=0.02)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "tune.tracking.thread"):
        patch.setattr(MlflowClient, "search_runs", away)
        thread.start()
        assert failed_twice.wait(20)
        warning = thread.closing_warning()
    thread.stop()
    assert warning is not None
    assert "no route to MLflow" in warning
    assert warning.endswith(f"decrop sync {directory.path}")
    assert len([entry for entry in caplog.records if entry.name == "tune.tracking.thread"]) == 1
    assert thread.closing_warning() is None
    assert Shown.of(tracker).names() == RUN_NAMES


def test_the_charts_have_their_address() -> None:
    assert experiment_page("3") == (
        "/#/experiments/3/runs"
        "?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey=all-trials"
    )


def test_a_moved_sweep_is_readable_through_a_server(
    full_sweep: SweepDirectory, server: str, tmp_path: Path
) -> None:
    shown = Shown.of(Tracker(full_sweep), server)
    assert shown.names() == RUN_NAMES
    trial = shown.run("trial 0")
    listed = {file.path for file in shown.client.list_artifacts(trial.info.run_id)}
    assert listed == {
        "trial.json",
        "certificates.tsv",
        "certificates.json",
        "denoiser.safetensors",
        "figures",
    }
    inner = {file.path for file in shown.client.list_artifacts(trial.info.run_id, "figures")}
    assert inner == {"figures/certified_accuracy.png"}
    for name in ("denoiser.safetensors", "figures/certified_accuracy.png"):
        fetched = shown.client.download_artifacts(trial.info.run_id, name, str(tmp_path))
        assert Path(fetched).read_bytes() == (full_sweep.trial(0).path / name).read_bytes()


def test_a_sweep_is_tracked_on_a_server(server: str, tmp_path: Path) -> None:
    directory = make_sweep(tmp_path, "remote")
    write_everything(directory)
    tracker = Tracker(directory, server)
    tracker.sync()
    shown = Shown.of(tracker, server)
    assert shown.names() == RUN_NAMES - Counter(["digits"]) + Counter(["remote"])
    assert not directory.mlflow_database_path.exists()
    run_id = shown.run("trial 1").info.run_id
    for name in ("certificates.tsv", "figures/certified_accuracy.png"):
        fetched = shown.client.download_artifacts(run_id, name, str(tmp_path))
        assert Path(fetched).read_bytes() == (directory.trial(1).path / name).read_bytes()

    before = shown.everything()
    Tracker(directory, server).sync()
    assert shown.everything() == before
