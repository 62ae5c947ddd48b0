"""The URI of the database that holds experiments and runs."""

import re
from pathlib import Path
from urllib.parse import quote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from mlflow_server.errors import InputError

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_ALLOWED = "allowed: sqlite:///PATH, or postgresql, mysql or mssql as DIALECT://USER@HOST/DATABASE"


def check_store(store: str) -> None:
    """Check that `store` is a database URI that MLflow can open, without connecting to it."""
    url = _parse(store)
    try:
        url.get_dialect().import_dbapi()
    except ArgumentError as error:
        raise InputError(f"store {_shown(store)!r} names an unknown driver; {_ALLOWED}") from error
    except ImportError as error:
        raise InputError(
            f"store {_shown(store)!r} needs the Python package {error.name!r}: install it, or name "
            "an installed driver, as in postgresql+psycopg2://USER@HOST/DATABASE"
        ) from error
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise InputError(
            f"store {store!r} lives in memory, which MLflow's processes do not share; "
            "give a file: sqlite:///PATH"
        )


def sqlite_file(store: str) -> Path | None:
    """The absolute path of the database `store` if it is SQLite's; None if it is another's."""
    url = _parse(store)
    return Path(url.database or "").absolute() if url.get_backend_name() == "sqlite" else None


def sqlite_uri(database: Path) -> str:
    """The URI of a file of SQLite, whatever signs are in its path."""
    # Slashes too: MLflow makes the folder that it reads from the URI, where it decodes nothing.
    return f"sqlite:///{quote(str(database.absolute()), safe='')}"


def contains_password(store: str) -> bool:
    """Whether the URI `store` carries a password, in its user part or among its parameters."""
    return bool(_passwords(_parse(store)))


def hide_password(text: str, store: str) -> str:
    """`text` with every password of the URI `store` replaced by `***`."""
    for password in _passwords(_parse(store)):
        text = text.replace(password, "***").replace(quote(password, safe=""), "***")
    return text


def _parse(store: str) -> URL:
    try:
        url = make_url(store)
    except (ArgumentError, ValueError) as error:
        raise InputError(f"store {_shown(store)!r} is not a database URI; {_ALLOWED}") from error
    if url.get_backend_name() not in _DATABASES:
        raise InputError(
            f"store {_shown(store)!r} is not a kind of database that MLflow supports; {_ALLOWED}"
        )
    return url


def _passwords(url: URL) -> list[str]:
    candidates = [url.password, *url.normalized_query.get("password", ())]
    return [password for password in candidates if password]


def _shown(store: str) -> str:
    """`store` without what may be a password, also where it does not parse."""
    without_user = re.sub(r"^([\w+.-]+://)?.*@", r"\1***@", store)
    return re.sub(r"(password=)[^&]*", r"\1***", without_user)
