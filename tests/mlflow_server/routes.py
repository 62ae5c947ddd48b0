"""The routes of MLflow's server with basic authentication, as its own route tables have them.

Run as a program it prints them: the tables exist only in a process that has become such a server.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlflow_server.authentication import prepare_folder


def routes(folder: Path) -> list[tuple[str, str]]:
    """Method and path of every route, with a value in place of each variable part.

    `folder` becomes that of a server's users.
    """
    environment = prepare_folder(folder, "sqlite:///unused.db")
    listing = subprocess.run(
        [sys.executable, "-m", "tests.mlflow_server.routes"],
        cwd=Path(__file__).parents[2],
        env={
            **os.environ,
            **environment,
            "MLFLOW_AUTH_ADMIN_PASSWORD": "password-of-no-server",
            "_MLFLOW_SGI_NAME": "uvicorn",
        },
        stdout=subprocess.PIPE,
        check=True,
        timeout=120,
    )
    return [(method, path) for method, path in json.loads(listing.stdout.splitlines()[-1])]


def _of_fastapi(app: Any) -> list[tuple[str, str]]:
    return [
        (method.upper(), re.sub(r"{[^}]*}", "1", path))
        for path, operations in app.openapi()["paths"].items()
        for method in operations
    ]


def _of_flask(app: Any) -> list[tuple[str, str]]:
    return [
        (method, re.sub(r"<[^>]*>", "1", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    ]


def main() -> None:
    """Print the routes as JSON."""
    from mlflow.server import app as flask_app
    from mlflow.server.auth import create_app

    print(json.dumps(sorted({*_of_fastapi(create_app()), *_of_flask(flask_app)})))


if __name__ == "__main__":
    main()
