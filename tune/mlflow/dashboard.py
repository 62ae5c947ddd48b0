"""The MLflow server of one sweep, served by this process."""

import os
import shlex
import sys
from typing import NoReturn

from tune.directory import SweepDirectory
from tune.mlflow import experiment_page
from tune.mlflow.registry import CHAMPION

DEFAULT_PORT = 5000
SERVING_PORT = 5001


def dashboard_command(directory: SweepDirectory, port: int = DEFAULT_PORT) -> str:
    """Return the command that serves the sweep's page, as a user would type it."""
    port_option = "" if port == DEFAULT_PORT else f" --port {port}"
    return f"decrop dashboard {shlex.quote(str(directory.path))}{port_option}"


def dashboard_url(experiment_id: str, port: int = DEFAULT_PORT) -> str:
    """Return the address at which that command opens the sweep on its charts."""
    return f"http://127.0.0.1:{port}{experiment_page(experiment_id)}"


def serving_commands(
    directory: SweepDirectory, model: str, tracking_uri: str | None = None
) -> list[str]:
    """Return what serves a registered model's champion, as a user would type it."""
    uri = tracking_uri or f"http://127.0.0.1:{DEFAULT_PORT}"
    served = (
        f"MLFLOW_TRACKING_URI={shlex.quote(uri)} mlflow models serve --model-uri "
        f"{shlex.quote(f'models:/{model}@{CHAMPION}')} --env-manager local --port {SERVING_PORT}"
    )
    return [served] if tracking_uri is not None else [f"{dashboard_command(directory)} &", served]


def serve(directory: SweepDirectory, experiment_id: str, port: int) -> NoReturn:
    """Become the server of the sweep's own store, on loopback, so that signals reach it itself.

    It prints the address of the sweep's page once it answers.
    """
    command = [
        sys.executable,
        "-m",
        "mlflow_server",
        "--store",
        f"sqlite:///{directory.mlflow_database_path.absolute()}",
        "--artifacts",
        str(directory.mlflow_artifacts_path.absolute()),
        "--port",
        str(port),
        "--page",
        experiment_page(experiment_id),
    ]
    sys.stdout.flush()
    os.execv(sys.executable, command)
