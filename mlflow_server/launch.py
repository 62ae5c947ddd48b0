"""Prepare the stores, then become MLflow's server, in one process that imports MLflow once.

`python launch.py [--auth-folder FOLDER] OPTIONS_OF_MLFLOW_SERVER...`, with the store and the
settings of its users in the environment. It runs by its path, as guard.py does.
"""

import argparse
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # Python run with -P looks neither here nor in the working directory.
    sys.path.append(str(Path(__file__).parent.parent))


def launch(store: str, auth_folder: Path | None, options: list[str]) -> None:
    """Upgrade `store`, create the admin, and run MLflow's server with `options` until it ends."""
    # Here, so that a wrong option is answered without waiting for them.
    from mlflow.cli import cli

    from mlflow_server.schema import upgrade_store
    from mlflow_server.users import create_admin

    upgrade_store(store)
    if auth_folder is not None:
        create_admin(auth_folder)
        options = [*options, "--app-name", "basic-auth"]
    cli.main(["server", *options], prog_name="mlflow")


def main() -> None:
    """Read the arguments and the environment."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--auth-folder", type=Path)
    own, options = parser.parse_known_args()
    launch(os.environ["MLFLOW_BACKEND_STORE_URI"], own.auth_folder, options)


if __name__ == "__main__":
    main()
