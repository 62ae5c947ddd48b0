"""The page of a finished sweep, served by the command as a user runs it."""

import os
import shutil
import signal
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.cases import slow_but
from tests.mlflow_server.processes import descendants, free_port, is_alive, is_free
from tests.tune.runs import FinishedSweep, started
from tune.directory import SweepDirectory
from tune.mlflow.registry import dashboard_command, dashboard_url
from tune.mlflow.tracker import Tracker


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return int(answer.status) == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.mark.parametrize("number", slow_but([signal.SIGINT, signal.SIGTERM], signal.SIGINT))
def test_the_page_is_served_until_a_signal(
    number: signal.Signals, finished: FinishedSweep, tmp_path: Path
) -> None:
    path = tmp_path / "a sweep"
    shutil.copytree(finished.directory.path, path)
    port = free_port()
    server = started("dashboard", path, "--port", port)
    below: dict[int, str] = {}
    try:
        assert server.stdout is not None
        printed = ""
        while "MLflow is ready" not in printed:
            line = server.stdout.readline()
            assert line, printed
            printed += line
        assert answers(f"http://127.0.0.1:{port}/health")
        below = descendants(server.pid)
        # Only the command gets it, as from a process manager.
        server.send_signal(number)
        rest, _ = server.communicate(timeout=60)
        printed += rest
        assert server.returncode == 0
        left = [pid for pid in below if is_alive(pid)]
        assert not left
        assert below
    finally:
        for pid in [server.pid, *(descendants(server.pid) or below)]:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        server.communicate()
    experiment = Tracker(SweepDirectory.open(path)).experiment_id()
    assert printed.splitlines()[-1] == f"MLflow is ready at {dashboard_url(experiment, port)}"
    assert "Traceback" not in printed
    assert is_free(port)


def test_command_and_address_name_the_port_that_is_not_usual(tmp_path: Path) -> None:
    directory = SweepDirectory(tmp_path / "a sweep")
    assert dashboard_command(directory) == f"decrop dashboard '{directory.path}'"
    assert dashboard_command(directory, 8080) == f"decrop dashboard '{directory.path}' --port 8080"
    assert dashboard_url("7").startswith("http://127.0.0.1:5000/#/experiments/7/runs?")
    assert dashboard_url("7", 8080).startswith("http://127.0.0.1:8080/#/experiments/7/runs?")
