"""The schema of a store, upgraded by one process at a time."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from filelock import FileLock
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from mlflow_server.store import sqlite_file

# Any number does that no other application on the database uses: "mlflow" in ASCII.
_ADVISORY_LOCK = 0x6D6C666C6F77


def upgrade_store(store: str) -> None:
    """Bring the tables of experiments and runs in `store` to the installed MLflow's schema.

    An empty database gets them. MLflow takes no lock for this, so two servers that start at once
    would both change the tables.
    """
    # Here, because it takes seconds and the lock does not need it.
    from mlflow.db import upgrade

    with lock(store):
        upgrade.main([store], prog_name="mlflow db upgrade", standalone_mode=False)
        if (database := sqlite_file(store)) is not None:
            # Without statistics SQLite looks for a metric of a run among that metric's points of
            # all runs. They are from a sample: it takes milliseconds.
            with closing(sqlite3.connect(database)) as connection:
                connection.executescript("PRAGMA analysis_limit = 400; ANALYZE;")


@contextmanager
def lock(store: str) -> Iterator[None]:
    """Be the only process that changes the schema of the database `store`.

    A file beside it for SQLite, an advisory lock for Postgres; the operating system or Postgres
    releases either when its holder dies. On another database there is no lock of ours.
    """
    if (database := sqlite_file(store)) is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{database}.lock"):
            yield
    elif make_url(store).get_backend_name() == "postgresql":
        with _advisory_lock(store):
            yield
    else:
        yield


@contextmanager
def _advisory_lock(store: str) -> Iterator[None]:
    # An open transaction would keep what the upgrade waits for.
    engine = create_engine(store, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
        # Closing the connection releases it.
        yield
