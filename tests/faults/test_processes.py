"""A sweep of which a process is killed."""

import os
import signal
from pathlib import Path

import pytest
from filelock import SoftFileLease

from tests.commands import contents
from tests.faults.conftest import Lost
from tests.faults.sweeps import HELPER_PROCESS, TRIAL_PROCESS, Sweep, must_equal, write_fixed
from tune.driver import sole_driver


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


def test_the_driver_is_paused_until_another_takes_over(
    tmp_path: Path, undisturbed: Sweep, lost: Lost
) -> None:
    sweep = Sweep(tmp_path / "sweeps")
    with sweep.running("sweep", write_fixed(tmp_path), "--out", sweep.parent):
        sweep.until_report(1)
        directory = sweep.directory
        os.kill(sweep.driver, signal.SIGSTOP)
        # As another machine sees it: nothing tells that the process is there.
        lease = SoftFileLease(directory.driver_path, lease_duration=30.0)
        lease.acquire(timeout=120)
        lease.release()
        with sole_driver(directory):
            # The trial's own process was not paused.
            before = contents(directory.path)
            os.kill(sweep.driver, signal.SIGCONT)
            sweep.end(code=1)
            assert contents(directory.path) == before
    said = sweep.printed.splitlines()[-1]
    assert said.startswith(f"error: {directory.path} was taken over by another process")
    with sweep.running("resume", directory.path):
        sweep.end()
    must_equal(sweep, undisturbed)
    lost("the driver is paused and followed, the sweep resumed", sweep)
