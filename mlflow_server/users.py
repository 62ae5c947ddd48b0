"""The users of a server that asks for passwords."""

import os
import secrets
from pathlib import Path

from mlflow_server.authentication import forget_admin_password, keep_admin_password
from mlflow_server.schema import lock

_PASSWORD_BYTES = 18
_PASSWORD_VARIABLE = "MLFLOW_AUTH_ADMIN_PASSWORD"


def create_admin(folder: Path) -> None:
    """Create the users' tables and, if there is none yet, the admin.

    Its password is that of the environment variable MLFLOW_AUTH_ADMIN_PASSWORD, which the processes
    started later do not inherit; without it, a generated one is kept in `folder` until it is shown.

    The environment holds what `prepare_folder` returned.
    """
    given = os.environ.pop(_PASSWORD_VARIABLE, None)
    # Here, because this module reads the environment when it is imported.
    from mlflow.server import auth

    with lock(auth.auth_config.database_uri):
        auth.store.init_db(auth.auth_config.database_uri)  # type: ignore[no-untyped-call]
        name = auth.auth_config.admin_username or ""
        if auth.store.has_user(name):
            return
        forget_admin_password(folder)
        password = given
        if password is None:
            password = secrets.token_urlsafe(_PASSWORD_BYTES)
            # First, so that no admin exists whose password nobody knows.
            keep_admin_password(folder, name, password)
        auth.create_admin_user(name, password)
