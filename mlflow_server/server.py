"""One MLflow tracking server, from its start to its last process."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from mlflow_server import guard
from mlflow_server.address import local_url, require_free
from mlflow_server.authentication import prepare_folder
from mlflow_server.errors import InputError, ServerError
from mlflow_server.hosts import allowed_hosts, allowed_origins
from mlflow_server.settings import ServerSettings
from mlflow_server.store import hide_password

_POLL_SECONDS = 0.1
_ANSWER_SECONDS = 2.0
# What requests under way get to finish after a stop is asked for.
_GRACE_SECONDS = 10.0
_LOG_TAIL_BYTES = 65536
_LAUNCH = Path(__file__).with_name("launch.py")


class TrackingServer:
    """An MLflow tracking server whose processes end with this object or with this process.

    As a context manager it is healthy inside the `with` block and stopped after it.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._guard: subprocess.Popen[bytes] | None = None
        self._log: BinaryIO | None = None
        self._log_start = 0

    @property
    def url(self) -> str:
        """Tracking URI of the server, for clients on this machine."""
        return local_url(self._settings.host, self._settings.port)

    def start(self) -> None:
        """Start the server's processes and return at once."""
        require_free(self._settings.host, self._settings.port)
        if self._settings.artifacts_folder is not None:
            _require_writable(self._settings.artifacts_folder)
        environment = _environment(self._settings)
        self._log = _open_log(self._settings.log_file)
        self._log_start = os.fstat(self._log.fileno()).st_size
        self._guard = subprocess.Popen(
            [sys.executable, "-P", guard.__file__, str(_GRACE_SECONDS), *_command(self._settings)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def wait_until_healthy(self) -> None:
        """Wait until the server answers its health check.

        Raises:
            ServerError: the server ended, or did not answer within the startup timeout; in the
                second case it still runs, until `stop`.
        """
        deadline = time.monotonic() + self._settings.startup_timeout
        while time.monotonic() < deadline:
            if not self._runs():
                raise ServerError(f"MLflow ended before it was ready: {self._cause()}")
            if _answers(f"{self.url}/health") and self._runs():
                return
            time.sleep(_POLL_SECONDS)
        raise ServerError(
            f"MLflow did not answer within {self._settings.startup_timeout:g} s: allow more with "
            f"--startup-timeout, or see what keeps it: {self._cause()}"
        )

    def wait(self) -> None:
        """Wait for as long as the server runs.

        Raises:
            ServerError: always, once the server has ended without `stop`.
        """
        if self._guard is not None:
            self._guard.wait()
        raise ServerError(f"MLflow ended by itself: {self._cause()}")

    def stop(self) -> None:
        """End the server: requests under way get some seconds, then all its processes are gone."""
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._guard.wait(2 * _GRACE_SECONDS)
            # Nothing is left to end here unless the guard itself was killed or stopped.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._guard.pid, signal.SIGKILL)
            self._guard.wait()
            self._guard = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_until_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _runs(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    def _cause(self) -> str:
        """The last error in MLflow's log, and where to find more, in one line."""
        line = hide_password(_last_error(self._log_tail()), self._settings.store)
        if self._settings.log_file is None:
            return f"{line} (--log-file FILE keeps its whole log)"
        return f"{line} (its log: {self._settings.log_file})"

    def _log_tail(self) -> str:
        if self._log is None:
            return ""
        # pread leaves the position alone, which the server's processes share.
        descriptor = self._log.fileno()
        start = max(self._log_start, os.fstat(descriptor).st_size - _LOG_TAIL_BYTES)
        return os.pread(descriptor, _LOG_TAIL_BYTES, start).decode(errors="replace")


def _command(settings: ServerSettings) -> list[str]:
    """The command of the server, without secrets: other users can read a process's arguments."""
    names, folder = settings.allowed_hosts, settings.artifacts_folder
    hosts = allowed_hosts(settings.host, names)
    origins = allowed_origins(settings.host, settings.port, names, settings.cors_origins)
    return [
        *(sys.executable, "-P", str(_LAUNCH)),
        *(("--auth-folder", str(settings.auth_folder)) if settings.auth_folder else ()),
        *("--host", settings.host),
        *("--port", str(settings.port)),
        *("--allowed-hosts", ",".join(hosts)),
        *("--cors-allowed-origins", ",".join(origins)),
        "--serve-artifacts",
        *("--artifacts-destination", folder.as_uri() if folder else settings.artifacts),
        # Each worker holds about 250 MB, and one serves a sweep's writer and a few browsers.
        *("--workers", "1"),
        # A line for every request would grow the log without end.
        "--uvicorn-opts=--no-access-log",
    ]


def _environment(settings: ServerSettings) -> dict[str, str]:
    folder = settings.auth_folder
    return {
        **os.environ,
        **(prepare_folder(folder, settings.store) if folder else {}),
        "MLFLOW_BACKEND_STORE_URI": settings.store,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def _require_writable(folder: Path) -> None:
    # MLflow makes the folder at the first upload only, when nobody is looking.
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"artifacts folder {folder} cannot be written ({error.strerror}); "
            "choose another with --artifacts"
        ) from error


def _open_log(path: Path | None) -> BinaryIO:
    if path is None:
        return tempfile.TemporaryFile()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab+")
    except OSError as error:
        raise InputError(
            f"log file {path} cannot be written ({error.strerror}); choose another with --log-file"
        ) from error


def _answers(url: str) -> bool:
    # The server is on this machine: a proxy from the environment would not find it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_ANSWER_SECONDS) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _last_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\w*(Error|Exception)\b|\bERROR\b", line)]
    return (errors or lines or ["its log is empty"])[-1]
