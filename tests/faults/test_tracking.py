"""A sweep whose MLflow server, or the database behind it, is killed and comes back."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.faults.conftest import Lost
from tests.faults.sweeps import Sweep, must_equal, write_fixed
from tests.mlflow_server.postgres import running_postgres
from tests.mlflow_server.processes import descendants, first_line, free_port, running


class TrackingServer:
    """An MLflow server that can be killed and started again."""

    def __init__(self, folder: Path, store: str) -> None:
        self._folder = folder
        self._store = store
        self._port = free_port()
        self._stack = ExitStack()
        self._process: subprocess.Popen[str]
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        log = ("--log-file", str(self._folder / "mlflow.log"))
        self._process = self._stack.enter_context(
            running(self._folder, self._port, self._store, *log)
        )
        assert first_line(self._process) == f"MLflow is ready at {self.uri}\n"

    def kill(self) -> None:
        """Kill all processes of the server."""
        for pid in (self._process.pid, *descendants(self._process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._stack.close()

    def shows(self, key: str) -> bool:
        """Whether there is a run of a sweep: `trials/0`, …"""
        client = MlflowClient(self.uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = client.search_runs(experiments)
        return any(run.data.tags.get("decrop.key", "").endswith(f"/{key}") for run in runs)


@contextmanager
def tracking_server(folder: Path, store: str) -> Iterator[TrackingServer]:
    """A server that runs, for the length of a block."""
    server = TrackingServer(folder, store)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def run_while_away(
    sweep: Sweep,
    server: TrackingServer,
    seconds: int,
    *,
    kill: Callable[[], None],
    start: Callable[[], None],
) -> None:
    """Run a sweep whose tracking is taken away in its first trial, and given back in its second."""
    tracking = ("--tracking-uri", server.uri)
    with sweep.running("sweep", write_fixed(sweep.parent.parent), "--out", sweep.parent, *tracking):
        sweep.until_report(0)
        with sweep.held():
            sweep.until(lambda: server.shows("trials/0"))
            kill()
        sweep.until_report(1)
        # It must not end before tracking is back.
        with sweep.held():
            time.sleep(seconds)
            start()
        sweep.end()
    assert "warning" not in sweep.printed


@pytest.mark.parametrize("seconds", [pytest.param(3, marks=pytest.mark.quick), 60])
def test_the_mlflow_server_is_killed(
    tmp_path: Path, undisturbed: Sweep, lost: Lost, seconds: int
) -> None:
    sweep = Sweep(tmp_path / "sweeps")
    with tracking_server(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}") as server:
        run_while_away(sweep, server, seconds, kill=server.kill, start=server.start)
        must_equal(sweep, undisturbed, "--tracking-uri", server.uri)
    lost(f"the MLflow server is killed and away for {seconds} s", sweep)


def test_the_postgres_server_is_killed(tmp_path: Path, undisturbed: Sweep, lost: Lost) -> None:
    sweep = Sweep(tmp_path / "sweeps")
    with (
        running_postgres() as postgres,
        tracking_server(tmp_path, postgres.create_database("runs")) as server,
    ):
        run_while_away(sweep, server, 20, kill=postgres.kill, start=postgres.start)
        must_equal(sweep, undisturbed, "--tracking-uri", server.uri)
    lost("the Postgres server is killed and away for 20 s", sweep)
