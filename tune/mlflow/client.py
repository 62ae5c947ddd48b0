"""MLflow's client and store set up for a sweep, what they can fail with, and registered models."""

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from decrop.errors import InputError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient
from pathlib import Path

from decrop.files import write_whole

_SERVER_ERROR = 500
_UNREACHABLE = re.compile(
    r"request to (https?://[^/\s]+)\S* failed .*"
    r"(?:NewConnection|NameResolution|ConnectTimeout|Proxy)"
)
_PROXIES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
# Aliases of a model's versions.
CHAMPION, PREVIOUS = "champion", "previous"


class TrackingError(RuntimeError):
    """Something could not be shown in MLflow; the sweep directory has it, and a repeat goes on."""


@contextmanager
def explained(to_be: str) -> Iterator[None]:
    """Raise what MLflow fails with inside the block as an error of ours.

    Raises:
        TrackingError: MLflow cannot be reached or refuses to be `to_be`: read, updated.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise TrackingError(f"MLflow cannot be {to_be}: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """Say why MLflow fails, and which variables mend it."""
    from mlflow.exceptions import MlflowException

    line = one_line(error)
    status = error.get_http_status_code() if isinstance(error, MlflowException) else None  # type: ignore[no-untyped-call]
    if status == HTTPStatus.UNAUTHORIZED:
        return (
            "the server asks who you are (401): set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if status == HTTPStatus.FORBIDDEN:
        user = os.environ.get("MLFLOW_TRACKING_USERNAME")
        return (
            f"the server does not let {f'the user {user}' if user else 'you'} do that (403): have "
            "the permission given, or set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD "
            "to another user's"
        )
    if unreachable := _UNREACHABLE.search(line):
        proxies = [name for name in _PROXIES if os.environ.get(name)]
        past = f", and NO_PROXY, for {' and '.join(proxies)} name a proxy" if proxies else ""
        return (
            f"no server answers at {unreachable[1]}; does it run? Its address is that of "
            f"--tracking-uri{past}"
        )
    return line


def is_outage(error: Exception) -> bool:
    """Tell whether it is MLflow as a whole that failed rather than one request."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.get_http_status_code() >= _SERVER_ERROR  # type: ignore[no-untyped-call]


def one_line(error: Exception) -> str:
    """Return the first line of what an error says, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def check_tracking_uri(uri: str) -> None:
    """Refuse what is no address of an MLflow server, without asking for it."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"Tracking URI {uri!r} is no server: give http://host:port or https://host, or none "
            "for the sweep's own store."
        )
    if parts.username is not None:
        raise InputError(
            "The tracking URI holds credentials; put them into MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD."
        )


def set_up_mlflow() -> None:
    """Set what MLflow takes from the environment only, the first of it while it is imported."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    # Its own retries of an unanswered request could make a run twice; the next sync looks first.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    # It tells of every schema migration, and logs errors that it raises as well.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def make_client(uri: str) -> "MlflowClient":
    """Return a client of a server or a store."""
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


def register_version(
    client: "MlflowClient",
    name: str,
    *,
    source: str,
    run_id: str,
    description: str,
    usage: str,
) -> int:
    """Register a run's artifact, by its address, as a new version of a model; return its number.

    A model without a description of its own gets `usage` for one. The version gets the alias
    `CHAMPION`; the version that had it before gets `PREVIOUS`.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
    model = client.get_registered_model(name)
    if not model.description:
        client.update_registered_model(name, usage)
    before = model.aliases.get(CHAMPION)
    created = client.create_model_version(name, source, run_id, description=description)
    if before is not None:
        client.set_registered_model_alias(name, PREVIOUS, str(before))
    client.set_registered_model_alias(name, CHAMPION, created.version)
    return int(created.version)


# Without statistics SQLite looks for a metric of a run among that metric's points of all runs.
# Statistics written by hand are SQLite's own way to settle a plan (sqlite.org/optoverview.html).
_STATISTICS = """
ANALYZE;
INSERT INTO sqlite_stat1 VALUES
    ('metrics', 'sqlite_autoindex_metrics_1', '100000 2000 2000 1000 1 1 1'),
    ('metrics', 'index_metrics_run_uuid', '100000 100'),
    ('metrics', 'index_metrics_run_uuid_key_step', '100000 100 5 1');
"""


def create_store(database: Path) -> None:
    """Make an empty store with MLflow's tables where there is none.

    Whole or not at all: MLflow cannot go on with tables whose making was cut off, so a driver
    killed meanwhile would leave a store that nothing opens.
    """
    if database.exists():
        return
    from mlflow.db import upgrade

    def made(path: Path) -> None:
        upgrade.main([sqlite_uri(path)], prog_name="mlflow db upgrade", standalone_mode=False)
        with closing(sqlite3.connect(path)) as store:
            store.executescript(_STATISTICS)

    write_whole(database, made)


def sqlite_uri(database: Path) -> str:
    """Return the URI of a store, as MLflow takes it, whatever signs are in its path."""
    # Slashes too: MLflow makes the folder that it reads from the URI, where it decodes nothing.
    return f"sqlite:///{quote(str(database.absolute()), safe='')}"
