"""What `python -m mlflow_server` answers where no server can run."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mlflow_server.processes import environment, free_port, run


def assert_one_line_error(
    result: subprocess.CompletedProcess[str], code: int, message: str
) -> None:
    assert result.returncode == code
    assert result.stdout == ""
    assert result.stderr.startswith("mlflow_server: ")
    assert re.search(message, result.stderr)
    assert result.stderr.count("\n") == 1


def test_an_occupied_port_is_bad_input(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        result = run(
            *("--artifacts", str(tmp_path), "--port", str(port)),
            store=f"sqlite:///{tmp_path}/runs.db",
        )
    assert_one_line_error(result, 2, f"port {port} of 127.0.0.1 is taken; .* --port")


def test_an_unparsable_store_is_bad_input(tmp_path: Path) -> None:
    result = run("--artifacts", str(tmp_path), store="runs.db")
    assert_one_line_error(result, 2, r"store 'runs\.db' is not a database URI; allowed: sqlite")


def test_a_password_on_the_command_line_is_bad_input(tmp_path: Path) -> None:
    result = run(
        *("--store", "postgresql://user:hunter2@127.0.0.1/runs", "--artifacts", str(tmp_path)),
        store="sqlite:///runs.db",
    )
    assert_one_line_error(result, 2, "environment variable MLFLOW_BACKEND_STORE_URI")
    assert "hunter2" not in result.stderr


@pytest.mark.parametrize("option", ["--artifacts", "--log-file"])
def test_a_place_that_cannot_be_written_is_bad_input(tmp_path: Path, option: str) -> None:
    (tmp_path / "file").write_text("")
    result = run(
        *("--artifacts", str(tmp_path), "--port", str(free_port())),
        *(option, str(tmp_path / "file" / "below")),
        store=f"sqlite:///{tmp_path}/runs.db",
    )
    assert_one_line_error(result, 2, f"cannot be written .* {option}")


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "runs.db").write_text("this is no database, and long enough to look like one")
    result = run(
        *("--artifacts", str(tmp_path), "--port", str(free_port())),
        *("--log-file", str(tmp_path / "server.log")),
        store=f"sqlite:///{tmp_path}/runs.db",
    )
    assert_one_line_error(
        result, 1, "ended before it was ready: .*file is not a database.*server.log"
    )
    assert "Traceback" in (tmp_path / "server.log").read_text()


def test_without_mlflow_it_says_what_to_install(tmp_path: Path) -> None:
    without_mlflow = (
        "import runpy, sys; sys.modules['mlflow'] = None; "
        "runpy.run_module('mlflow_server', run_name='__main__')"
    )
    result = subprocess.run(
        [sys.executable, "-c", without_mlflow, "--artifacts", str(tmp_path)],
        env=environment(f"sqlite:///{tmp_path}/runs.db"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert_one_line_error(result, 1, r"MLflow is not installed; pip install 'decrop\[sweep\]'")
