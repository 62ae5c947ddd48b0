"""The sweep's own store."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.tune.sweeps import (
    make_sweep,
    write_complete_trial,
)
from tune.mlflow.client import create_store, make_client, set_up_mlflow, sqlite_uri
from tune.mlflow.tracker import Tracker


@pytest.mark.slow
def test_a_store_whose_making_was_cut_off_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_sweep(tmp_path)

    def killed(engine: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        # By then some of the tables are there.
        patch.setattr("mlflow.store.db.utils._upgrade_db", killed)
        with pytest.raises(SystemExit):
            Tracker(directory).sync()
    Tracker(directory).sync()
    assert [run.key for run in Tracker(directory).logged_runs()] == ["sweep"]


def test_a_store_is_made_in_a_folder_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "a?b 50%20#[red] $x$ ü"
    folder.mkdir()
    set_up_mlflow()
    create_store(folder / "mlflow.db")
    client = make_client(sqlite_uri(folder / "mlflow.db"))
    assert client.get_experiment(client.create_experiment("denoisers")).name == "denoisers"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert [path.name for path in folder.iterdir()] == ["mlflow.db"]


def test_a_metric_of_a_run_is_not_looked_for_among_all_runs(tmp_path: Path) -> None:
    set_up_mlflow()
    create_store(tmp_path / "mlflow.db")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        asked = "EXPLAIN QUERY PLAN SELECT * FROM metrics WHERE run_uuid = 'a' AND key = 'b'"
        [[*_, plan]] = store.execute(asked)
    assert "run_uuid=? AND key=?" in plan


@pytest.mark.slow
def test_making_the_store_prints_nothing(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    write_complete_trial(directory.trial(0), 0)
    program = (
        "import sys; from pathlib import Path; from tune.directory import SweepDirectory; "
        "from tune.mlflow.tracker import Tracker; Tracker(SweepDirectory(Path(sys.argv[1]))).sync()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(directory.path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == [directory.path.name]
