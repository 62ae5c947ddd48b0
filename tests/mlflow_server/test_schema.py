import os
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base
from sqlalchemy import create_engine, text

from mlflow_server.schema import upgrade_store
from tests.mlflow_server.postgres import Postgres

# What takes time comes before the signal to go, so that both reach the database at once.
UPGRADE = """
import os
import mlflow.db
from mlflow_server.schema import upgrade_store
print("ready", flush=True)
input()
upgrade_store(os.environ["STORE"])
"""
SECONDS = 120


def upgrade_twice_at_once(store: str) -> list[str]:
    """Upgrade `store` from two processes and return the log of each."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", UPGRADE],
            env={**os.environ, "STORE": store},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        logs = [process.communicate(timeout=SECONDS)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(logs)
    return logs


def revision(store: str) -> str:
    with create_engine(store).connect() as connection:
        return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())


def revisions() -> list[str]:
    """All revisions of MLflow's schema, newest first."""
    script = ScriptDirectory.from_config(_get_alembic_config(""))
    return [found.revision for found in script.walk_revisions()]


def create_old(store: str, old: str) -> None:
    """The tables as an older MLflow left them."""
    engine = create_engine(store)
    config = _get_alembic_config(store)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, old)
    engine.dispose()


@pytest.mark.slow
def test_two_that_start_at_once_create_a_sqlite_store_once(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/new/runs.db"
    logs = upgrade_twice_at_once(store)
    assert sum(log.count("Creating initial MLflow database tables") for log in logs) == 1
    assert revision(store) == revisions()[0]


@pytest.mark.slow
def test_two_that_start_at_once_create_a_postgres_store_once(postgres: Postgres) -> None:
    store = postgres.create_database("created-once")
    before = postgres.log.count("CREATE TABLE experiments")
    upgrade_twice_at_once(store)
    assert postgres.log.count("CREATE TABLE experiments") == before + 1
    assert revision(store) == revisions()[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_two_that_start_at_once_upgrade_an_old_store_once(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = f"sqlite:///{tmp_path}/runs.db"
    if kind == "postgres":
        store = request.getfixturevalue("postgres").create_database("upgraded-once")
    newest, *older = revisions()
    create_old(store, older[9])
    upgrade_twice_at_once(store)
    assert revision(store) == newest


def test_a_metric_of_a_run_is_not_looked_for_among_all_runs(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/runs.db"
    upgrade_store(store)
    rows = [{"run": f"r{run}", "key": f"k{key}"} for run in range(100) for key in range(3)]
    made = (
        "INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid) "
        "VALUES (:key, 1, 1, 1, 0, :run)"
    )
    with create_engine(store).begin() as connection:
        connection.execute(text(made), rows)
    upgrade_store(store)
    with create_engine(store).connect() as connection:
        asked = "EXPLAIN QUERY PLAN SELECT * FROM metrics WHERE run_uuid = 'r1' AND key = 'k1'"
        [[*_, plan]] = connection.execute(text(asked))
    assert "run_uuid=? AND key=?" in plan
