"""A Postgres server of the tests' own: on loopback, in a temporary folder, never as root."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psycopg2

from tests.mlflow_server.processes import descendants, eventually, free_port, is_alive

USER = "mlflow"
PASSWORD = "p%ss/word-of-postgres"
START_SECONDS = 60


class Postgres:
    """One database cluster, whose server can be stopped, killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs = _programs()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        (folder / "password").write_text(PASSWORD)
        _give_away(folder)
        subprocess.run(
            [
                *(self._programs / "initdb", "--pgdata", folder / "data", "--username", USER),
                *("--auth", "scram-sha-256", "--pwfile", folder / "password"),
                *("--encoding", "UTF8", "--locale", "C", "--no-sync"),
            ],
            stdout=subprocess.DEVNULL,
            check=True,
            **_as_another_user(),
        )

    @property
    def pid(self) -> int:
        """Of the server, whose children do the work."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server has logged, every change of a table's definition included."""
        return (self._folder / "log").read_text()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._programs / "postgres", "-D", self._folder / "data"),
                    *("-h", "127.0.0.1", "-p", str(self.port), "-k", self._folder),
                    *("-c", "fsync=off", "-c", "log_statement=ddl", "-c", "shared_buffers=32MB"),
                ],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                **_as_another_user(),
            )
        assert eventually(self._answers, START_SECONDS), self.log

    def stop(self) -> None:
        """End the server as its administrator would: what is committed stays."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server as a crash would: all its processes at once."""
        assert self._process is not None
        below = list(descendants(self._process.pid))
        self._end(signal.SIGKILL)
        for pid in below:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # Their shared memory is in use until all of them are gone.
        assert eventually(lambda: not any(map(is_alive, below)), START_SECONDS)

    def create_database(self, name: str) -> str:
        """Create an empty database and return its URI, password included."""
        connection = self._connect()
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{name}"')
        connection.close()
        user = f"{USER}:{quote(PASSWORD, safe='')}"
        return f"postgresql+psycopg2://{user}@127.0.0.1:{self.port}/{name}"

    def _connect(self) -> psycopg2.extensions.connection:
        return psycopg2.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname="postgres"
        )

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self.log
        try:
            self._connect().close()
        except psycopg2.OperationalError:
            return False
        return True

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(START_SECONDS)
            self._process = None


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A new cluster with its server running; gone at the end."""
    # Not below pytest's folder, which only this user can enter.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        postgres = Postgres(folder)
        try:
            postgres.start()
            yield postgres
        finally:
            postgres.stop()
    finally:
        shutil.rmtree(folder)


def _programs() -> Path:
    """The folder of the newest Postgres, which Debian keeps off the path."""
    if (found := shutil.which("initdb")) is not None:
        return Path(found).parent
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4])
    )
    assert folders, "Postgres is missing: apt-get install postgresql"
    return folders[-1].parent


def _other_user() -> pwd.struct_passwd | None:
    """Who runs Postgres in place of root, for whom it refuses to start."""
    return pwd.getpwnam("nobody") if os.getuid() == 0 else None


def _as_another_user() -> dict[str, object]:
    other = _other_user()
    return (
        {} if other is None else {"user": other.pw_uid, "group": other.pw_gid, "extra_groups": []}
    )


def _give_away(folder: Path) -> None:
    if (other := _other_user()) is not None:
        for path in (folder, *folder.iterdir()):
            os.chown(path, other.pw_uid, other.pw_gid)
