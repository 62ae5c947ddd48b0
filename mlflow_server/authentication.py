"""The private folder of a server that asks for passwords: its secret key, settings and users.

    folder/basic_auth.ini      MLflow's settings of basic authentication
    folder/secret_key          key of the sign-up form's protection against forged requests
    folder/users.db            users and their permissions, where the store is SQLite
    folder/admin_password      an admin's generated password until it has been shown

Only the user who runs the server can read it.
"""

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from mlflow_server.errors import InputError
from mlflow_server.store import sqlite_file, sqlite_uri

SECRET_KEY_VARIABLE = "MLFLOW_FLASK_SERVER_SECRET_KEY"
_SECRET_BYTES = 32


def users_store(store: str, folder: Path) -> str:
    """Database URI of the users of a server whose runs are in `store`.

    A database server keeps both, so that one backup holds both. The file of SQLite is readable to
    whoever may read the runs, so there the users, with their passwords' hashes, have their own.
    """
    return store if sqlite_file(store) is None else sqlite_uri(folder / "users.db")


def prepare_folder(folder: Path, store: str) -> dict[str, str]:
    """Fill `folder` with what MLflow's basic authentication needs and return its environment.

    A secret key from the environment goes before the folder's own: servers on several machines
    must share one.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            raise InputError(
                f"other users can look into {folder}, where passwords are kept; "
                f"`chmod 700` it, or choose another folder with --auth-folder"
            )
        _create(folder / "secret_key", secrets.token_urlsafe(_SECRET_BYTES))
        _replace(folder / "basic_auth.ini", _settings(users_store(store, folder)))
        secret_key = (folder / "secret_key").read_text()
    except OSError as error:
        raise InputError(
            f"folder {folder} of the users cannot be written ({error.strerror}); "
            "choose another with --auth-folder"
        ) from error
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str((folder / "basic_auth.ini").absolute()),
        SECRET_KEY_VARIABLE: os.environ.get(SECRET_KEY_VARIABLE) or secret_key,
    }


def keep_admin_password(folder: Path, name: str, password: str) -> None:
    """Keep the generated `password` of the admin `name` in `folder` until it has been shown."""
    _replace(folder / "admin_password", f"{name}\n{password}")


def kept_admin_password(folder: Path) -> tuple[str, str] | None:
    """Name and generated password of an admin to whom it was not shown yet; None without one."""
    try:
        name, password = (folder / "admin_password").read_text().split("\n")
    except FileNotFoundError:
        return None
    return name, password


def forget_admin_password(folder: Path) -> None:
    """Drop a generated password that has been shown or is none any more."""
    (folder / "admin_password").unlink(missing_ok=True)


def _settings(users: str) -> str:
    return "\n".join(
        [
            "[mlflow]",
            "# What a user may do with what others made, until they grant more.",
            "default_permission = NO_PERMISSIONS",
            f"database_uri = {users.replace('%', '%%')}",
            "admin_username = admin",
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth",
            "",
        ]
    )


def _create(path: Path, text: str) -> None:
    """Write a private file unless it exists, also when two processes do so at once."""
    if path.exists():
        return
    temporary = _write_temporary(path, text)
    with contextlib.suppress(FileExistsError):
        os.link(temporary, path)
    temporary.unlink()


def _replace(path: Path, text: str) -> None:
    """Write a private file, whole or not at all."""
    _write_temporary(path, text).replace(path)


def _write_temporary(path: Path, text: str) -> Path:
    # Only its owner can read a file that mkstemp made.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    return Path(name)
