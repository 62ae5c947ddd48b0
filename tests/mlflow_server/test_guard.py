import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mlflow_server import guard
from tests.mlflow_server.processes import eventually, is_alive

# Starts a child as MLflow starts its web server, and writes down both process ids.
_PARENT_AND_CHILD = """
import os, pathlib, signal, subprocess, sys, time
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
file = pathlib.Path(sys.argv[1])
file.with_suffix(".part").write_text(f"{os.getpid()} {child.pid}")
file.with_suffix(".part").rename(file)
time.sleep(600)
"""


@contextmanager
def guarded(
    folder: Path, temper: str = "mild"
) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    file = folder / "pids"
    command = [sys.executable, "-c", _PARENT_AND_CHILD, str(file), temper]
    process = subprocess.Popen(
        [sys.executable, guard.__file__, "1.0", *command],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert eventually(file.exists, 20)
        yield process, [int(pid) for pid in file.read_text().split()]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def all_gone(pids: list[int]) -> bool:
    return not any(is_alive(pid) for pid in pids)


# A child inherits an ignored signal, so the stubborn pair needs SIGKILL.
@pytest.mark.parametrize("temper", ["mild", "stubborn"])
def test_closing_the_input_ends_the_command_and_its_children(tmp_path: Path, temper: str) -> None:
    with guarded(tmp_path, temper) as (process, pids):
        assert not all_gone(pids)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(20)
        assert eventually(lambda: all_gone(pids), 5)


def test_a_command_that_is_killed_leaves_no_children(tmp_path: Path) -> None:
    with guarded(tmp_path) as (process, pids):
        os.kill(pids[0], signal.SIGKILL)
        process.wait(20)
        assert eventually(lambda: all_gone(pids), 5)


def test_signals_do_not_take_the_guard_away_from_its_command(tmp_path: Path) -> None:
    with guarded(tmp_path) as (process, pids):
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        assert all(is_alive(pid) for pid in pids)


def test_it_refuses_to_end_a_group_that_is_not_its_own() -> None:
    result = subprocess.run(
        [sys.executable, guard.__file__, "1.0", sys.executable, "-c", "print('started')"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert result.returncode == 1
    assert "leader of a new process group" in result.stderr
    assert result.stdout == ""
