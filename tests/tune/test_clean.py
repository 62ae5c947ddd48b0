"""What can go of a sweep, and that nothing else does."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import contents, decrop
from tests.tune.sweeps import begin, end, make_sweep, write_complete_trial, write_progress
from tune.clean import plan_removal, remove
from tune.directory import SweepDirectory, SweepTrialFolder
from tune.driver import sole_driver


@pytest.fixture
def directory(tmp_path: Path) -> SweepDirectory:
    """Trials 2, 3, 1, 0 by rank; 4 pruned, 5 failed, 6 runs; 2 and 1 are trained once more."""
    directory = make_sweep(tmp_path, leaderboard={"top": 1})
    for number, radius in enumerate((0.1, 0.2, 0.4, 0.3)):
        write_complete_trial(directory.trial(number), number, radius=radius)
    for number in (4, 5, 6):
        folder = directory.trial(number)
        begin(folder, number)
        write_progress(folder, 1, 1)
        folder.checkpoint_path.write_bytes(b"state of the optimiser")
    end(directory.trial(4), "pruned")
    end(directory.trial(5), "failed", "Traceback\nMemoryError: no memory left")
    for number in (2, 1):
        write_complete_trial(directory.final(number), number, split="test")
    unfinished = directory.final(3)
    begin(unfinished, 3)
    unfinished.checkpoint_path.write_bytes(b"state of the optimiser")
    (directory.cache_path / "boundary").mkdir(parents=True)
    (directory.cache_path / "boundary" / "a.safetensors").write_bytes(b"samples")
    return directory


def checkpoints(*folders: SweepTrialFolder) -> set[Path]:
    return {folder.checkpoint_path for folder in folders}


def test_checkpoints_of_ended_trials_outside_the_best_can_go(directory: SweepDirectory) -> None:
    removal = plan_removal(directory)
    assert removal.kept == (2, 0) and removal.unfinished == (6,)
    assert set(removal.files) == checkpoints(
        *(directory.trial(number) for number in (1, 3, 4, 5)), directory.final(1)
    )
    assert removal.trials == (1, 3, 4, 5)
    assert removal.megabytes == pytest.approx(5 * len(b"state of the optimiser") / 1e6)
    assert plan_removal(directory, top=3).files == tuple(
        directory.trial(number).checkpoint_path for number in (4, 5)
    )


def test_nothing_else_is_removed(directory: SweepDirectory) -> None:
    before = contents(directory.path)
    removal = plan_removal(directory)
    remove(removal)
    after = contents(directory.path)
    gone = {path.relative_to(directory.path).as_posix() for path in removal.files}
    assert after == {name: content for name, content in before.items() if name not in gone}
    assert not plan_removal(directory).files


def test_parts_that_a_killed_process_left_go(directory: SweepDirectory) -> None:
    remove(plan_removal(directory))
    part = directory.trial(6).path / ".checkpoint.pt.0123456789abcdef.tmp"
    part.write_bytes(b"half")
    assert plan_removal(directory).files == (part,)


def test_a_complete_trial_without_its_result_keeps_what_it_has(directory: SweepDirectory) -> None:
    directory.trial(3).result_path.unlink()
    removal = plan_removal(directory)
    assert directory.trial(3).checkpoint_path not in removal.files
    assert removal.unfinished == (3, 6)


def test_the_command_says_what_goes_and_asks(
    directory: SweepDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(directory.path)
    answers = iter([False, True])
    monkeypatch.setattr("tune.cli.upkeep.typer.confirm", lambda *_, **__: next(answers))
    declined = decrop("clean", directory.path, "--json")
    assert declined.code == 0
    assert "to be removed: 5 files of 4 trials, 0.0 MB" in declined.out
    assert declined.last_line["removed"] is False
    assert contents(directory.path) == before
    agreed = decrop("clean", directory.path, "--json")
    assert agreed.code == 0
    assert agreed.last_line == {**declined.last_line, "removed": True}
    assert len(contents(directory.path)) == len(before) - 5
    again = decrop("clean", directory.path, "--yes")
    assert again.code == 0 and "nothing was removed" in again.out


@pytest.mark.slow
def test_without_an_answer_nothing_is_removed(directory: SweepDirectory) -> None:
    before = contents(directory.path)
    ran = subprocess.run(
        [sys.executable, "-c", "from decrop.cli import main; main()", "clean", directory.path],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 1
    assert contents(directory.path) == before


def test_a_sweep_that_runs_is_not_touched(directory: SweepDirectory) -> None:
    with sole_driver(directory):
        before = contents(directory.path)
        ran = decrop("clean", directory.path, "--yes")
        assert ran.code == 2
        assert f"{directory.path} is in use by process" in ran.err
        assert contents(directory.path) == before
