"""Settings of a tracking server, checked before anything starts."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from mlflow_server.errors import InputError
from mlflow_server.hosts import check_allowed_host, check_origin
from mlflow_server.store import check_store

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass(frozen=True)
class ServerSettings:
    """The stores and the address of one tracking server.

    Attributes:
        store: database URI of experiments and runs, such as `sqlite:///runs/mlflow.db`; kept out of
            the representation because it may hold a password.
        artifacts: folder or URI (`s3://bucket/path`) under which the server keeps artifacts.
        host: interface to listen on.
        port: TCP port to listen on, 1 to 65535.
        startup_timeout: seconds that MLflow may take until it answers, more than 0.
        log_file: file to which MLflow's own log is appended; None keeps it only for the cause of a
            failed start.
        auth_folder: private folder of the users and the secret key of a server that asks for
            passwords; None asks for none.
        allowed_hosts: names by which clients reach the server, besides `host` and loopback's.
        cors_origins: sites whose pages may call the server, as `https://site[:port]`, besides those
            on loopback.
    """

    store: str = field(repr=False)
    artifacts: str
    host: str = "127.0.0.1"
    port: int = 5000
    startup_timeout: float = 120.0
    log_file: Path | None = None
    auth_folder: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_store(self.store)
        if not self.artifacts:
            raise InputError("artifacts is empty; give a folder or a URI such as s3://bucket/path")
        if not 1 <= self.port <= 65535:
            raise InputError(f"port {self.port} does not exist; give --port a number in 1..65535")
        if not self.startup_timeout > 0:
            raise InputError(
                f"startup timeout {self.startup_timeout} s leaves no time to start; "
                "give --startup-timeout more than 0"
            )
        for name in self.allowed_hosts:
            check_allowed_host(name)
        for origin in self.cors_origins:
            check_origin(origin)

    @property
    def artifacts_folder(self) -> Path | None:
        """The folder of the artifacts as an absolute path; None where they are kept at a URI."""
        return None if _URI.match(self.artifacts) else Path(self.artifacts).absolute()
