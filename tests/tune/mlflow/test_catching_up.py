"""What is new is logged, once, whatever broke off before."""

import threading
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient

from decrop.config import CertificationSettings, TrialConfig
from decrop.files import write_json, write_text
from tests.tune.mlflow.view_makers import RUN_NAMES, Shown, artifact_folder, write_everything
from tests.tune.sweeps import (
    CERTIFICATES,
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
from tune.mlflow.client import TrackingError
from tune.mlflow.tracker import Tracker


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
    assert len(shown.points("trial 0", "certified/held_out")) == 26
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
        assert run.info.status == "FINISHED"
    assert len(shown.points("final 0 (test)", "certified/test")) == 26
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


@pytest.mark.slow
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
    # A request takes 100 parameters, and there are more settings.
    of_the_trial, of_the_sweep = 2, 1
    assert Counter(sent) == Counter(
        ["POST create", "PUT trial.json", "POST log-inputs", "POST update"]
        + ["POST log-batch"] * (of_the_trial + of_the_sweep)
    )


def test_metrics_are_shown_while_artifacts_cannot_be(
    directory: SweepDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_complete_trial(directory.trial(0), 0)
    tracker = Tracker(directory)

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tune.mlflow.writer.write_whole", full)
        with pytest.raises(TrackingError, match="no space left"):
            tracker.sync()
    shown = Shown.of(tracker)
    assert shown.points("trial 0", "train/total") == [(1, 3.0), (2, 1.5), (3, 1.0)]
    assert "decrop.synced" not in shown.run("trial 0").data.tags
    tracker.sync()
    assert (artifact_folder(directory, shown.run("trial 0")) / "certificates.tsv").exists()
    assert len(shown.points("trial 0", "train/total")) == 3


@pytest.mark.parametrize("epochs", [3, 500])
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
    # All settings take two requests, of 100 each at most; many epochs take more.
    assert (len(synced) == 2) == (epochs == 3)


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
    note = shown.run("trial 0").data.tags["mlflow.note.content"]
    assert note.endswith(": it runs.")


def test_a_replaced_artifact_is_copied_again(directory: SweepDirectory) -> None:
    write_complete_trial(directory.trial(0), 0)
    tracker = Tracker(directory)
    tracker.sync()
    copy = artifact_folder(directory, Shown.of(tracker).run("trial 0")) / "certificates.tsv"
    write_text(directory.trial(0).certificates_path, CERTIFICATES + "10\t3\t3\t0.1\t1\t0:00:01\n")
    tracker.sync()
    assert copy.read_text().endswith("10\t3\t3\t0.1\t1\t0:00:01\n")


def test_a_long_parameter_is_cut_to_what_mlflow_takes(directory: SweepDirectory) -> None:
    radii = tuple(number + 1 / 7 for number in range(1000))
    settings = CertificationSettings(radii=radii)
    begin(directory.trial(0), 0, TrialConfig(certification=settings))
    tracker = Tracker(directory)
    tracker.sync()
    shown = Shown.of(tracker)
    kept = shown.run("trial 0").data.params["certification.radii"]
    assert len(kept) == 6000 and str(radii[0]) in kept and str(radii[-1]) not in kept
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
