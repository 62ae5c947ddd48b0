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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--allowed-host", "https://example.org"), "is not a host's name; give --allowed-host"),
        (("--cors-origin", "*"), "is not the address of one site; give --cors-origin"),
    ],
)
def test_a_name_that_cannot_be_one_is_bad_input(
    tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    result = run("--artifacts", str(tmp_path), *options, store=f"sqlite:///{tmp_path}/runs.db")
    assert_one_line_error(result, 2, message)


def test_users_of_a_database_server_need_a_private_folder(tmp_path: Path) -> None:
    store = "postgresql+psycopg2://user@127.0.0.1/runs"
    result = run("--artifacts", str(tmp_path), "--auth", store=store)
    assert_one_line_error(result, 2, "give --auth-folder")


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("missing", "options", "message"),
    [
        ("mlflow", (), r"MLflow is not installed; pip install 'decrop\[sweep\]'"),
        ("flask_wtf", ("--auth",), r"--auth needs Flask-WTF, .*; pip install 'decrop\[server\]'"),
    ],
)
def test_without_a_package_it_says_what_to_install(
    tmp_path: Path, missing: str, options: tuple[str, ...], message: str
) -> None:
    without_package = (
        f"import runpy, sys; sys.modules[{missing!r}] = None; "
        "runpy.run_module('mlflow_server', run_name='__main__')"
    )
    result = subprocess.run(
        [sys.executable, "-c", without_package, "--artifacts", str(tmp_path), *options],
        env=environment(f"sqlite:///{tmp_path}/runs.db"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert_one_line_error(result, 1, message)
