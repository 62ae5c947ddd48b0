"""How a sweep is asked to stop."""

import errno
import io
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

import tune.stopping
from tests.tune.sweeps import make_sweep
from tune.directory import SweepDirectory
from tune.stopping import SweepStop, deadline


@pytest.fixture
def directory(tmp_path: Path) -> SweepDirectory:
    return make_sweep(tmp_path)


def quiet() -> Console:
    return Console(file=io.StringIO())


def test_workers_see_a_request_until_it_is_cleared(directory: SweepDirectory) -> None:
    stop = SweepStop(directory, quiet())
    assert not stop.due() and not directory.stop_path.exists()
    stop.request("failures")
    stop.request("time")
    assert stop.due() and stop.reason == "failures"
    assert directory.stop_path.exists()
    # What a driver that was killed has left does not stop the next one.
    again = SweepStop(directory, quiet())
    assert not again.due() and not directory.stop_path.exists()


def test_time_is_over_after_so_many_hours(
    directory: SweepDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(tune.stopping.time, "monotonic", lambda: now)
    stop = SweepStop(directory, quiet(), deadline(0.5))
    now += 1799
    assert not stop.due()
    now += 2
    assert stop.due() and stop.reason == "time" and not stop.overdue()
    assert directory.stop_path.exists()
    now += 600
    assert stop.overdue()


def test_a_full_disk_does_not_keep_a_sweep_from_stopping(
    directory: SweepDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(tune.stopping, "write_text", no_room)
    stop = SweepStop(directory, quiet())
    stop.request("disk")
    assert stop.due() and stop.reason == "disk"


def test_no_limit_is_never_over() -> None:
    assert deadline(None) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_ctrl_c_asks_to_stop(directory: SweepDirectory, number: signal.Signals) -> None:
    console = quiet()
    stop = SweepStop(directory, console)
    before = signal.getsignal(number)
    with stop.listening():
        assert not stop.due()
        signal.raise_signal(number)
        assert stop.reason == "interrupted" and directory.stop_path.exists()
    assert signal.getsignal(number) is before
    assert isinstance(console.file, io.StringIO)
    assert "press Ctrl-C again to stop at once" in console.file.getvalue()


@pytest.mark.parametrize("stopped_too", [True, False])
def test_a_sweep_whose_ray_was_stopped_too_does_not_wait_for_it(
    directory: SweepDirectory, monkeypatch: pytest.MonkeyPatch, stopped_too: bool
) -> None:
    monkeypatch.setattr("tune.stopping._WATCH_SECONDS", 0.01)
    said: list[str] = []

    def end(stop: SweepStop, why: str) -> None:
        said.append(why)
        stop._listening.clear()

    monkeypatch.setattr(SweepStop, "_end", end)
    with socket.create_server(("127.0.0.1", 0)) as server:
        context = SimpleNamespace(gcs_address=f"127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr("ray.is_initialized", lambda: True)
        monkeypatch.setattr("ray.get_runtime_context", lambda: context)
        with SweepStop(directory, quiet()).listening():
            signal.raise_signal(signal.SIGTERM)
            if stopped_too:
                server.close()
            ends = time.monotonic() + (10 if stopped_too else 0.2)
            while not said and time.monotonic() < ends:
                time.sleep(0.01)
    assert said == ["Ray was stopped too; trials go on from what they saved last"] * stopped_too


SECOND = """
import signal, sys
from pathlib import Path
from rich.console import Console
from tune.directory import SweepDirectory
from tune.stopping import SweepStop
stop = SweepStop(SweepDirectory(Path(sys.argv[1])), Console(), None, "go on with: HERE")
try:
    with stop.listening():
        signal.raise_signal(signal.SIGINT)
        print("still here", flush=True)
        signal.raise_signal(signal.SIGINT)
finally:
    print("unwound")
"""


@pytest.mark.slow
def test_the_second_ctrl_c_ends_the_process_at_once(directory: SweepDirectory) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SECOND, str(directory.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 130, ran.stderr
    assert "still here" in ran.stdout and "unwound" not in ran.stdout
    last = ran.stdout.strip().splitlines()[-1]
    assert last.endswith("stopped at once; go on with: HERE")
