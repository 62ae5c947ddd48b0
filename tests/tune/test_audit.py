"""An audit finds whatever is lost, double or different, and nothing else."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient

from decrop.errors import InputError
from decrop.files import read_json, write_json
from tests.commands import contents, decrop
from tests.mlflow_server.processes import free_port
from tests.tune.sweeps import (
    begin,
    end,
    report_row,
    write_board,
    write_complete_trial,
    write_outcome,
    write_progress,
)
from tune.directory import SweepDirectory
from tune.mlflow.audit import Audit, audit_sweep, audit_table
from tune.mlflow.client import TrackingError
from tune.mlflow.tracker import Tracker
from tune.sweep_file import SweepConfig

CLEAN = {"trials": 5, "lost": 0, "doubled": 0, "metric_mismatches": 0}
LAST_SCORE = 0.2


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> SweepDirectory:
    """Trials 0 to 2 are complete, 3 was pruned, 4 failed; 0 and 1 are certified on test images."""
    sweep = SweepConfig.model_validate(
        {"name": "digits", "trials": 5, "space": {"sigma": {"choice": [0.25, 0.5]}}}
    )
    directory = SweepDirectory.create(tmp_path_factory.mktemp("tracked"), sweep)
    for number in range(3):
        write_complete_trial(directory.trial(number), number, radius=LAST_SCORE)
    for number, state in ((3, "pruned"), (4, "failed")):
        folder = directory.trial(number)
        begin(folder, number)
        write_progress(folder, 1, 1)
        end(folder, "pruned" if state == "pruned" else "failed")
    write_json(directory.trial(4).reports_path, [{**report_row(1), "certified_accuracy": {}}])
    for number in (0, 1):
        write_complete_trial(directory.final(number), number, split="test")
    write_outcome(directory.undefended, split="test")
    write_board(directory)
    Tracker(directory).sync()
    return directory


@pytest.fixture
def directory(tracked: SweepDirectory, tmp_path: Path) -> SweepDirectory:
    # Not even a time of a file may differ, for MLflow takes it for a change.
    shutil.copytree(tracked.path, tmp_path / "copy", copy_function=shutil.copy2)
    return SweepDirectory.open(tmp_path / "copy")


def mlflow(directory: SweepDirectory) -> MlflowClient:
    return MlflowClient(f"sqlite:///{directory.mlflow_database_path}")


def run_of(directory: SweepDirectory, key: str) -> Any:
    client = mlflow(directory)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = [
        run
        for run in client.search_runs(experiments, run_view_type=ViewType.ALL)
        if run.data.tags["decrop.key"].partition("/")[2] == key
    ]
    return run


def counts(**found: int) -> dict[str, int]:
    return CLEAN | found


def test_what_agrees_is_clean(directory: SweepDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = directory.path.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    before = contents(directory.path)
    ran = decrop("audit", directory.path, "--json")
    assert ran.code == 0, ran.out
    assert ran.last_line == CLEAN
    assert contents(directory.path) == before and not contents(elsewhere)
    assert decrop("sync", directory.path, "--check").out == decrop("audit", directory.path).out


def test_everything_is_compared(directory: SweepDirectory) -> None:
    found = audit_sweep(directory)
    assert found.folders == found.runs
    assert found.folders == {"trials": 5, "final": 2, "undefended": 1, "sweep": 1}
    client, points = mlflow(directory), 0
    for number in range(5):
        run = run_of(directory, f"trials/{number}")
        points += sum(
            len(client.get_metric_history(run.info.run_id, name)) for name in run.data.metrics
        )
    assert found.points["trials"] == points > 100
    assert not found.problems and not found.notes


def delete_a_run(directory: SweepDirectory) -> None:
    mlflow(directory).delete_run(run_of(directory, "trials/2").info.run_id)


def remove_a_key(directory: SweepDirectory) -> None:
    client, run = mlflow(directory), run_of(directory, "trials/2")
    client.set_tag(run.info.run_id, "decrop.key", "somebody/else")


def double_a_run(directory: SweepDirectory) -> None:
    client, run = mlflow(directory), run_of(directory, "final/1")
    twin = client.create_run(
        run.info.experiment_id, tags={"decrop.key": run.data.tags["decrop.key"]}
    )
    for name in run.data.metrics:
        for point in client.get_metric_history(run.info.run_id, name):
            client.log_metric(twin.info.run_id, name, point.value, point.timestamp, point.step)


def add_a_point(directory: SweepDirectory) -> None:
    client, run = mlflow(directory), run_of(directory, "trials/1")
    client.log_metric(run.info.run_id, "train/total", 1.0, step=99)


def repeat_a_point(directory: SweepDirectory) -> None:
    client, run = mlflow(directory), run_of(directory, "trials/1")
    (point,) = [p for p in client.get_metric_history(run.info.run_id, "train/total") if p.step == 2]
    client.log_metric(run.info.run_id, "train/total", point.value, point.timestamp + 1, 2)


def change_a_loss(directory: SweepDirectory) -> None:
    path = directory.trial(0).history_path
    first, *others = read_json(path)
    write_json(path, [{**first, "total": first["total"] + 1e-12}, *others])


def change_a_score(directory: SweepDirectory) -> None:
    path = directory.trial(3).reports_path
    write_json(path, [{**report_row(1), "average_certified_radius": 0.7}])


def change_the_result(directory: SweepDirectory) -> None:
    path = directory.trial(2).result_path
    write_json(path, {**read_json(path), "average_certified_radius": 0.9})


def cut_certificates(directory: SweepDirectory) -> None:
    path = directory.final(0).certificates_path
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))


def drop_a_folder(directory: SweepDirectory) -> None:
    shutil.rmtree(directory.trial(2).path)


def drop_folder_and_run(directory: SweepDirectory) -> None:
    drop_a_folder(directory)
    remove_a_key(directory)


def drop_a_final_training(directory: SweepDirectory) -> None:
    shutil.rmtree(directory.final(1).path)


def write_half_a_file(directory: SweepDirectory) -> None:
    path = directory.trial(1).history_path
    path.write_text(path.read_text()[: path.stat().st_size // 2])


def write_half_a_state(directory: SweepDirectory) -> None:
    directory.trial(1).state_path.write_text('{"state": "comp')


def let_a_trial_run(directory: SweepDirectory) -> None:
    begin(directory.trial(4), 4)


def copy_a_folder(directory: SweepDirectory) -> None:
    shutil.rmtree(directory.trial(2).path)
    shutil.copytree(directory.trial(1).path, directory.trial(2).path)


def test_the_table_leaves_out_what_there_is_none_of() -> None:
    audit = Audit(trials={0}, doubled=1)
    audit.folders["trials"] = audit.runs["trials"] = 1
    table = audit_table(audit)
    assert table.caption == "Files and MLflow compared: 1 trial, 1 double."
    assert [row[0] for row in table.rows] == ["trials"]
    caption = audit_table(Audit()).caption
    assert caption == "Files and MLflow compared: 0 trials, nothing lost, double or different."


@pytest.mark.parametrize(
    ("tamper", "found", "said"),
    [
        (delete_a_run, counts(lost=1), "trials/2: its run was deleted in MLflow"),
        (remove_a_key, counts(lost=1), "trials/2: has no run in MLflow"),
        (double_a_run, counts(doubled=1), "final/1: has 2 runs in MLflow: "),
        (add_a_point, counts(metric_mismatches=1), "train/total at step 99 is 1, in the files no"),
        (repeat_a_point, counts(metric_mismatches=1), "total at step 2 is 1.5 and 1.5, in the fi"),
        (change_a_loss, counts(metric_mismatches=1), "trials/0 in MLflow: train/total at step 1"),
        (change_a_score, counts(metric_mismatches=1), "trials/3 in MLflow: held_out/average_cer"),
        # And the best so far, from this trial on.
        (
            change_the_result,
            counts(metric_mismatches=3),
            "sweep in MLflow: sweep/best_so_far at step",
        ),
        (drop_a_folder, counts(lost=1), "trials/2: has no folder, but the sweep has its leader"),
        (drop_folder_and_run, counts(lost=1), "trials/2: has no folder"),
        (drop_a_final_training, counts(lost=1), "final/1: has a run in MLflow but no folder"),
        (write_half_a_file, counts(lost=1), "trials/1: cannot be read: "),
        (write_half_a_state, counts(lost=1), "trials/1: cannot be read: "),
        (let_a_trial_run, counts(lost=1), "trials/4: has not ended, but the sweep has its leader"),
        (copy_a_folder, counts(doubled=1), "trials/2: its trial.json says that it is trial 1"),
    ],
)
def test_what_was_tampered_with_is_found(
    directory: SweepDirectory,
    tamper: Callable[[SweepDirectory], None],
    found: dict[str, int],
    said: str,
) -> None:
    tamper(directory)
    before = contents(directory.path)
    ran = decrop("audit", directory.path, "--json")
    assert ran.code == 1
    assert ran.last_line == found
    assert said in " ".join(ran.out.split())
    assert "Traceback" not in ran.out + ran.err
    assert contents(directory.path) == before


def test_cut_certificates_differ_at_many_radii(directory: SweepDirectory) -> None:
    cut_certificates(directory)
    found = audit_sweep(directory)
    assert found.metric_mismatches > 10 and not found.lost
    *named, rest = found.problems
    assert len(named) == 3
    assert all(line.startswith("final/0 in MLflow: certified/") for line in named)
    assert rest == f"final/0 in MLflow: and {found.metric_mismatches - 3} more points"


def test_what_is_still_to_come_is_not_lost(directory: SweepDirectory) -> None:
    directory.leaderboard_json_path.unlink()
    shutil.rmtree(directory.trial(4).path)
    remove_key = run_of(directory, "trials/4")
    mlflow(directory).set_tag(remove_key.info.run_id, "decrop.key", "somebody/else")
    begin(directory.trial(3), 3)
    found = audit_sweep(directory)
    assert not found.lost and not found.doubled
    assert found.notes == [f"not ended: 2 of 5 trials; go on with: decrop resume {directory.path}"]


def test_hints_name_the_server_that_was_compared(
    directory: SweepDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.leaderboard_json_path.unlink()
    begin(directory.trial(3), 3)
    monkeypatch.setattr(Tracker, "logged_runs", lambda _: [])
    found = audit_sweep(directory, "http://127.0.0.1:9")
    here = f"{directory.path} --tracking-uri http://127.0.0.1:9"
    assert found.notes[0] == f"not ended: 1 of 5 trials; go on with: decrop resume {here}"
    assert f"trials/0: has no run in MLflow; catch up with: decrop sync {here}" in found.problems


def test_trials_that_nobody_asked_for_are_a_problem(directory: SweepDirectory) -> None:
    record = directory.read_record()
    fewer = record.sweep.model_copy(update={"trials": 4})
    directory.write_record(record.model_copy(update={"sweep": fewer}))
    found = audit_sweep(directory)
    assert "there are 5 trials, but the sweep has 4" in found.problems


def test_values_that_no_store_can_hold_agree_with_what_it_holds(tmp_path: Path) -> None:
    sweep = SweepConfig.model_validate({"name": "digits", "trials": 1})
    directory = SweepDirectory.create(tmp_path, sweep)
    folder = directory.trial(0)
    begin(folder, 0)
    rows = [
        {"epoch": epoch, "phase": 1, "total": loss, "seconds": 2.0}
        for epoch, loss in enumerate((math.nan, math.inf, -math.inf, 1 / 3), start=1)
    ]
    write_json(folder.history_path, rows)
    end(folder, "failed", "Traceback\nDivergedError: the loss is nan")
    Tracker(directory).sync()
    assert audit_sweep(directory).counts == CLEAN | {"trials": 1}


def test_a_directory_without_a_store_needs_a_server(directory: SweepDirectory) -> None:
    directory.mlflow_database_path.unlink()
    with pytest.raises(InputError, match=r"give the server.*--tracking-uri"):
        audit_sweep(directory)
    assert not directory.mlflow_database_path.exists()


def test_a_server_that_is_away_is_said_in_one_line(directory: SweepDirectory) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(TrackingError, match="MLflow cannot be read"):
        audit_sweep(directory, nowhere)
    ran = decrop("audit", directory.path, "--tracking-uri", nowhere)
    assert ran.code == 1 and ran.out.startswith("error: MLflow cannot be read: ")


def test_an_empty_store_has_lost_everything(directory: SweepDirectory) -> None:
    other = SweepDirectory.create(directory.path.parent / "other", directory.read_record().sweep)
    Tracker(other).sync()
    other.mlflow_database_path.replace(directory.mlflow_database_path)
    found: Audit = audit_sweep(directory)
    assert len(found.lost) == 5 + 2 + 1
    assert found.counts["trials"] == 5
