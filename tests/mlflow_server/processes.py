"""The command under test as a process, and the processes of this machine as /proc shows them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 100


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(store: str, **more: str) -> dict[str, str]:
    """This process's environment with `store` and `more`, and without its other MLflow settings."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    return {**inherited, "MLFLOW_BACKEND_STORE_URI": store, **more}


def run(*options: str, store: str) -> subprocess.CompletedProcess[str]:
    """Run the command with `options` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "mlflow_server", *options],
        env=environment(store),
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )


@contextmanager
def running(
    folder: Path, port: int, store: str, *options: str, **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """The command, serving `folder` on `port`; killed at the end if it still runs.

    A later option of `options` replaces those; `variables` are added to its environment.
    """
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow_server"),
            *("--artifacts", str(folder / "artifacts")),
            *("--port", str(port)),
            *("--startup-timeout", str(START_SECONDS)),
            *options,
        ],
        env=environment(store, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> str:
    """The first line that the process prints; empty if it ends without one."""
    assert process.stdout is not None
    return process.stdout.readline()


def descendants(pid: int) -> dict[int, str]:
    """Ids and command lines of all processes below `pid` that have not ended."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] != "Z":
            parents[int(folder.name)] = int(fields[1])
    below: dict[int, str] = {}
    level = {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        below.update({child: command_line(child) for child in level})
    return below


def command_line(pid: int) -> str:
    """The arguments of a process, separated by blanks; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether `condition` becomes true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def is_free(port: int) -> bool:
    """Whether nothing listens on `port` of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
