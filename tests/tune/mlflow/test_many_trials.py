"""What trials cost that have ended and are synced: nothing more, however many they are."""

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from decrop.files import write_json
from tests.tune.mlflow.view_makers import Shown
from tests.tune.openings import counted
from tests.tune.sweeps import begin, end, write_complete_trial, write_progress
from tune.directory import SweepDirectory, SweepTrialFolder
from tune.mlflow import run_view, sweep_view, trial_view
from tune.mlflow.tracker import Tracker

# Ten to read, one for a table that is written, and two for each of four copies.
MOST_OPENINGS = 19


def write_old_trials(directory: SweepDirectory, numbers: range) -> None:
    """Write trials that ended an hour ago."""
    for number in numbers:
        folder = directory.trial(number)
        write_complete_trial(folder, number)
        write_json(folder.inputs_path, {"limited_data": "b" * 64})
        write_json(folder.system_path, [{"seconds": 5, "cpu_utilization_percentage": 80.0}])
        write_json(folder.samples_path, {"node": {"trial": 10, "helpers": 0}})
        write_json(folder.code_path, {"version": "1", "host": "node"})
        age(folder)


def age(folder: SweepTrialFolder) -> None:
    for path in folder.path.rglob("*"):
        os.utime(path, (time.time() - 3600,) * 2)


@pytest.fixture
def stamped(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the files whose stamps are taken, by the folder they are in."""
    found: Counter[str] = Counter()
    original = run_view.stamps_of

    def counting(files: dict[str, Path]) -> dict[str, run_view.Stamp]:
        found.update(path.parent.name for path in files.values())
        return original(files)

    for module in (sweep_view, trial_view):
        monkeypatch.setattr(module, "stamps_of", counting)
    return found


def cost_of_a_sync(tracker: Tracker, stamped: Counter[str]) -> tuple[int, int, int]:
    stamped.clear()
    with counted() as files:
        tracker.sync()
    return files["openings"], files["listings"], stamped.total()


def test_trials_that_ended_and_are_synced_cost_nothing_more(
    directory: SweepDirectory, stamped: Counter[str]
) -> None:
    tracker = Tracker(directory)
    costs = []
    for numbers in (range(3), range(3, 9)):
        write_old_trials(directory, numbers)
        tracker.sync()
        costs.append(cost_of_a_sync(tracker, stamped))
    assert costs[0] == costs[1]
    assert not {str(number) for number in range(9)} & set(stamped)


def test_one_trial_more_costs_the_same_beside_many(
    directory: SweepDirectory, stamped: Counter[str]
) -> None:
    tracker = Tracker(directory)
    costs = []
    for number in (2, 8):
        write_old_trials(directory, range(len(directory.trial_numbers()), number))
        tracker.sync()
        begin(directory.trial(number), number)
        write_progress(directory.trial(number), epochs=2, evaluations=1)
        costs.append(cost_of_a_sync(tracker, stamped))
        end(directory.trial(number))
        age(directory.trial(number))
    assert costs[0] == costs[1]


def test_a_first_sync_opens_few_files_of_a_trial(directory: SweepDirectory) -> None:
    tracker = Tracker(directory)
    # Modules that the first of all imports are no files of a trial.
    write_old_trials(directory, range(1))
    tracker.sync()
    write_old_trials(directory, range(1, 6))
    with counted() as files:
        tracker.sync()
    of_the_sweep = files["openings"] % 5
    assert files["openings"] - of_the_sweep <= 5 * MOST_OPENINGS


def test_a_trial_that_has_just_ended_is_looked_at_again(directory: SweepDirectory) -> None:
    tracker = Tracker(directory)
    write_complete_trial(directory.trial(0), 0)
    tracker.sync()
    # The samples of a machine's load are written last.
    write_json(directory.trial(0).system_path, [{"seconds": 5, "memory": 80.0}])
    tracker.sync()
    assert Shown.of(tracker).points("trial 0", "system/memory") == [(5, 80.0)]


def test_a_whole_sync_looks_at_all(directory: SweepDirectory) -> None:
    tracker = Tracker(directory)
    write_old_trials(directory, range(1))
    tracker.sync()
    write_json(directory.trial(0).system_path, [{"seconds": 9, "memory": 80.0}])
    tracker.sync()
    shown = Shown.of(tracker)
    assert shown.points("trial 0", "system/memory") == []
    tracker.sync(whole=True)
    assert shown.points("trial 0", "system/memory") == [(9, 80.0)]


def test_a_broken_trial_does_not_make_all_runs_be_listed_again(
    directory: SweepDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_old_trials(directory, range(2))
    tracker = Tracker(directory)
    tracker.sync()
    directory.trial(1).history_path.write_text("[")
    asked: list[str] = []
    original = Tracker._runs_of

    def recording(self: Tracker, experiment: object, those: str = "") -> object:
        asked.append(those)
        return original(self, experiment, those)  # type: ignore[arg-type]

    monkeypatch.setattr(Tracker, "_runs_of", recording)
    for _ in range(2):
        with pytest.raises(Exception, match="trials/1"):
            tracker.sync(whole=True)
    assert len(asked) == 1 and "trials/1" in asked[0]


def test_what_is_uploaded_to_mlflow_changes_no_file_of_the_sweep(directory: SweepDirectory) -> None:
    write_old_trials(directory, range(1))
    Tracker(directory).sync()
    for path in (directory.trial(0).denoiser_path, directory.trial(0).certificates_path):
        before = path.read_bytes()
        [shown] = directory.mlflow_artifacts_path.rglob(path.name)
        assert shown.read_bytes() == before
        # As MLflow's server does, which opens what is there already.
        with shown.open("wb") as file:
            file.write(b"other")
        assert path.read_bytes() == before
