"""Tracking beside a sweep that runs."""

import logging
import threading
import time

import pytest
from mlflow.tracking import MlflowClient

from tests.tune.mlflow.view_makers import RUN_NAMES, Shown, write_everything
from tests.tune.sweeps import (
    begin,
)
from tune.directory import SweepDirectory
from tune.mlflow.tracker import Tracker, TrackingThread


@pytest.mark.slow
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


@pytest.mark.slow
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
        # A sync asks for every run, and has failed at its end.
        if calls > 2 * len(RUN_NAMES):
            failed_twice.set()
        raise ConnectionError("no route to MLflow")

    thread = TrackingThread(tracker, interval=0.02)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "tune.mlflow.tracker"):
        patch.setattr(MlflowClient, "search_runs", away)
        thread.start()
        assert failed_twice.wait(20)
        warning = thread.closing_warning()
    thread.stop()
    assert warning is not None
    assert "no route to MLflow" in warning
    assert warning.endswith(f"decrop sync {directory.path}")
    assert len([entry for entry in caplog.records if entry.name == "tune.mlflow.tracker"]) == 1
    assert thread.closing_warning() is None
    assert Shown.of(tracker).names() == RUN_NAMES
