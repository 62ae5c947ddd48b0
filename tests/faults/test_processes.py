"""A sweep of which a process is killed."""

from pathlib import Path

import pytest

from tests.faults.conftest import Lost
from tests.faults.sweeps import HELPER_PROCESS, TRIAL_PROCESS, Sweep, must_equal, write_fixed
from tests.tune.runs import contents


@pytest.mark.quick
def test_a_helper_is_killed(tmp_path: Path, undisturbed: Sweep, lost: Lost) -> None:
    sweep = Sweep(tmp_path / "sweeps")
    with sweep.running("sweep", write_fixed(tmp_path), "--out", sweep.parent):
        sweep.until_report(1)
        # It holds a lease of the trial's draws.
        sweep.kill(HELPER_PROCESS)
        sweep.end()
    assert "its process died" not in sweep.printed
    must_equal(sweep, undisturbed)
    lost("a helper is killed", sweep)


def test_the_process_of_a_trial_is_killed(tmp_path: Path, undisturbed: Sweep, lost: Lost) -> None:
    sweep = Sweep(tmp_path / "sweeps")
    with sweep.running("sweep", write_fixed(tmp_path), "--out", sweep.parent):
        sweep.until_report(1)
        sweep.kill(TRIAL_PROCESS)
        history = sweep.directory.trial(1).read_history()
        sweep.end()
    assert "trial 1: its process died; it goes on from its checkpoint (retry 1" in sweep.printed
    # What was trained before is not trained again: the rows tell how long it took.
    assert history and sweep.directory.trial(1).read_history()[: len(history)] == history
    must_equal(sweep, undisturbed)
    lost("the process of a trial is killed", sweep)


@pytest.mark.quick
def test_the_driver_is_killed(tmp_path: Path, undisturbed: Sweep, lost: Lost) -> None:
    sweep = Sweep(tmp_path / "sweeps")
    with sweep.running("sweep", write_fixed(tmp_path), "--out", sweep.parent):
        sweep.until_report(1)
        sweep.kill_driver()
    directory = sweep.directory
    finished, history = contents(directory.trial(0).path), directory.trial(1).read_history()

    with sweep.running("resume", directory.path):
        sweep.end()
    assert "trial 0 started" not in sweep.printed
    assert contents(directory.trial(0).path) == finished
    assert history and directory.trial(1).read_history()[: len(history)] == history
    must_equal(sweep, undisturbed)
    lost("the driver is killed, the sweep resumed", sweep)
