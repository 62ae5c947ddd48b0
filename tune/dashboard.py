"""The MLflow server of one sweep, started as a process of its own."""

import shlex
import subprocess
import sys

from tune.directory import SweepDirectory
from tune.tracking import experiment_url

DEFAULT_PORT = 5000


def dashboard_command(directory: SweepDirectory, port: int = DEFAULT_PORT) -> str:
    """Return the command that serves the sweep's page, as a user would type it."""
    port_option = "" if port == DEFAULT_PORT else f" --port {port}"
    return f"decrop dashboard {shlex.quote(str(directory.path))}{port_option}"


def dashboard_url(experiment_id: str, port: int = DEFAULT_PORT) -> str:
    """Return the address at which that command opens the sweep on its charts."""
    return experiment_url(f"http://127.0.0.1:{port}", experiment_id)


def serve(directory: SweepDirectory, port: int) -> int:
    """Serve the sweep's own store on loopback until interrupted; return the server's exit code."""
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
    ]
    with subprocess.Popen(command) as server:
        try:
            return server.wait()
        except KeyboardInterrupt:
            # A terminal sends Ctrl-C to the server too, but other senders may not.
            server.terminate()
            return server.wait()
