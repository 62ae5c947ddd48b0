import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlflow_server.errors import ServerError
from mlflow_server.server import TrackingServer
from mlflow_server.settings import ServerSettings
from mlflow_server.store import sqlite_uri
from tests.mlflow_server.processes import (
    START_SECONDS,
    command_line,
    descendants,
    eventually,
    first_line,
    free_port,
    is_alive,
    is_free,
    running,
)

# Stands for a password: a part of the store's URI that must not show anywhere.
SECRET = "correct-horse-battery-staple"


@dataclass
class Served:
    process: subprocess.Popen[str]
    folder: Path
    store: str
    port: int
    ready_line: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    # Signs that are marks in URIs.
    folder = tmp_path_factory.mktemp("served $x$ [red] 50%20#ü")
    port = free_port()
    store = sqlite_uri(folder / SECRET / "runs.db")
    with running(folder, port, store) as process:
        yield Served(process, folder, store, port, first_line(process))


def web_servers(command: int) -> list[int]:
    """Process ids of the web servers below the command."""
    return [pid for pid, line in descendants(command).items() if "-m uvicorn" in line]


def test_it_says_where_it_is_ready(served: Served) -> None:
    assert served.ready_line == f"MLflow is ready at {served.url}\n"


def test_runs_are_stored_and_artifacts_pass_through_the_server(
    served: Served, tmp_path: Path
) -> None:
    client = MlflowClient(served.url)
    experiment = client.get_experiment(client.create_experiment("denoisers"))
    assert experiment.artifact_location.startswith("mlflow-artifacts:/")
    run_id = client.create_run(experiment.experiment_id).info.run_id
    client.log_metric(run_id, "certified/0.25", 0.27)
    (tmp_path / "certificates.tsv").write_text("idx\tlabel\n0\t3\n")
    client.log_artifact(run_id, str(tmp_path / "certificates.tsv"), "certificates")

    assert client.get_run(run_id).data.metrics == {"certified/0.25": 0.27}
    back = client.download_artifacts(
        run_id, "certificates/certificates.tsv", str(tmp_path / "back")
    )
    assert Path(back).read_text() == "idx\tlabel\n0\t3\n"
    kept = list((served.folder / "artifacts").rglob("certificates.tsv"))
    assert [file.read_text() for file in kept] == ["idx\tlabel\n0\t3\n"]
    assert (served.folder / SECRET / "runs.db").is_file()


def test_the_store_is_in_no_process_arguments(served: Served) -> None:
    assert web_servers(served.process.pid)
    shown = [command_line(int(folder.name)) for folder in Path("/proc").glob("[0-9]*")]
    assert not [line for line in shown if SECRET in line]


@pytest.mark.slow
def test_a_signal_ends_every_process_and_frees_the_port(tmp_path: Path, served: Served) -> None:
    port = free_port()
    with running(tmp_path, port, served.store) as process:
        assert first_line(process)
        family = descendants(process.pid)
        assert not is_free(port)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert not [line for pid, line in family.items() if is_alive(pid)]
    assert is_free(port)


@pytest.mark.slow
def test_ctrl_c_while_starting_ends_every_process(tmp_path: Path) -> None:
    with running(tmp_path, free_port(), f"sqlite:///{tmp_path}/runs.db") as process:
        assert eventually(lambda: len(descendants(process.pid)) >= 2, 30)
        family = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (0, "", "")
    assert not [line for pid, line in family.items() if is_alive(pid)]


@pytest.mark.slow
def test_a_killed_guard_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with running(tmp_path, free_port(), f"sqlite:///{tmp_path}/runs.db") as process:
        assert eventually(lambda: len(descendants(process.pid)) >= 2, 30)
        family = descendants(process.pid)
        (guard,) = [pid for pid, line in family.items() if "guard.py" in line]
        os.kill(guard, signal.SIGKILL)
        output, errors = process.communicate(timeout=120)
    assert (process.returncode, output) == (1, "")
    assert errors.startswith("mlflow_server: MLflow ended before it was ready: ")
    assert eventually(lambda: not any(is_alive(pid) for pid in family), 30)


@pytest.mark.slow
def test_a_killed_command_leaves_no_server_behind(tmp_path: Path, served: Served) -> None:
    port = free_port()
    with running(tmp_path, port, served.store) as process:
        assert eventually(lambda: web_servers(process.pid) != [], START_SECONDS)
        family = descendants(process.pid)
        process.kill()
        assert eventually(lambda: not any(is_alive(pid) for pid in family), 30)
    assert is_free(port)


@pytest.mark.slow
def test_a_server_that_dies_later_is_an_error_and_leaves_nothing(
    tmp_path: Path, served: Served
) -> None:
    with running(tmp_path, free_port(), served.store) as process:
        assert first_line(process)
        family = descendants(process.pid)
        (web_server,) = web_servers(process.pid)
        os.kill(web_server, signal.SIGKILL)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors.startswith("mlflow_server: MLflow ended by itself: ")
    assert errors.count("\n") == 1
    assert not [line for pid, line in family.items() if is_alive(pid)]


def test_a_start_that_takes_too_long_leaves_nothing(tmp_path: Path) -> None:
    port = free_port()
    settings = ServerSettings(
        f"sqlite:///{tmp_path}/runs.db", str(tmp_path), port=port, startup_timeout=0.5
    )
    before = descendants(os.getpid())
    with (
        pytest.raises(ServerError, match=r"did not answer within 0\.5 s: .*--startup-timeout"),
        TrackingServer(settings),
    ):
        pytest.fail("healthy after half a second")
    assert descendants(os.getpid()).keys() <= before.keys()
    assert is_free(port)
