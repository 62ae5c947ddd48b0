"""Sweep directories and servers that show them."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.tune.mlflow.view_makers import wait_until_healthy, write_everything
from tests.tune.sweeps import (
    make_sweep,
)
from tune.directory import SweepDirectory
from tune.mlflow.tracker import Tracker


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
        wait_until_healthy(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)
