"""Addresses that cannot be tracked to."""

import socket
import time
from pathlib import Path

import pytest

from decrop.errors import InputError
from tests.tune.mlflow.view_makers import write_everything
from tune.directory import SweepDirectory
from tune.mlflow.client import TrackingError
from tune.mlflow.tracker import Tracker


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
