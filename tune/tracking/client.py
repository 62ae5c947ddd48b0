"""MLflow's client, set up for a sweep."""

import logging
import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from decrop.errors import InputError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


def check_tracking_uri(uri: str) -> None:
    """Refuse what is no address of an MLflow server, without asking for it.

    Raises:
        InputError: the URI is not http(s), or holds credentials.
    """
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
