"""Addresses that cannot be tracked to."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
        with pytest.raises(
            TrackingError, match="MLflow cannot be updated: no server answers at http"
        ) as caught:
            tracker.sync()
    assert time.monotonic() - begun < 5
    assert "\n" not in str(caught.value)


@contextmanager
def refusing(status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TO"),
        (403, "does not let the user ann do that (403): have the permission given"),
    ],
)
def test_a_refusal_names_the_variables_to_set(
    directory: SweepDirectory, monkeypatch: pytest.MonkeyPatch, status: int, said: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    with refusing(status) as uri, pytest.raises(TrackingError) as caught:
        Tracker(directory, uri).sync()
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_refused_connection_names_address_and_proxy(
    directory: SweepDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(TrackingError) as caught:
        Tracker(directory, "http://example.invalid:5000").sync()
    assert "no server answers at http://example.invalid:5000; does it run?" in str(caught.value)
    assert "NO_PROXY, for HTTP_PROXY name" in str(caught.value)
