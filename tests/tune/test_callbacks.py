"""What a person is told while a sweep runs, with and without a terminal."""

import io
import pickle
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune import PlacementGroupFactory
from rich.console import Console

from tests.tune.sweeps import begin, end, make_sweep
from tune.callbacks import SweepCallback, SweepProgress
from tune.directory import SweepDirectory
from tune.stopping import SweepStop
from tune.worker import CROWDED_OUT, FAILED, METRIC, STOPPED


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=120), text


def score(value: float, evaluation: int = 1) -> dict[str, Any]:
    return {"evaluation": evaluation, "epoch": 10 * evaluation, METRIC: value}


def trial(number: int, **last_result: Any) -> Any:
    """A trial as Ray Tune hands it to callbacks."""
    parameters = {"training.loss_weights.cosine": 2.5}
    return SimpleNamespace(
        config={"number": number, "parameters": parameters},
        last_result=last_result,
        get_error=lambda: None,
    )


@pytest.fixture
def directory(tmp_path: Path) -> SweepDirectory:
    return make_sweep(tmp_path)


def test_without_a_terminal_each_event_is_a_plain_line() -> None:
    where, text = console(terminal=False)
    with SweepProgress(2, 2, where) as progress:
        progress.started(0, {})
        progress.started(1, {"training.loss_weights.cosine": 2.5})
        progress.scored(0, score(0.1234))
        progress.ended(1, "failed")
        progress.scored(0, score(0.25, 2))
        progress.ended(0, "complete")
    lines = text.getvalue().splitlines()
    assert "\x1b" not in text.getvalue()
    assert lines[:3] == [
        "trial 0 started (as given)",
        "trial 1 started",
        "trial 0: epoch 10, average certified radius 0.123 held out",
    ]
    assert lines[3].startswith("trial 1 failed; 1 of 2 trials done, about ")
    assert lines[5].startswith("trial 0 complete; 2 of 2 trials done, best so far trial 0 with 0.2")
    assert "left" not in lines[5]
    assert len(lines) == 6


def test_on_a_terminal_a_table_shows_all_trials() -> None:
    where, text = console(terminal=True)
    with SweepProgress(3, 2, where) as progress:
        progress.started(0, {"training.loss_weights.cosine": 4.0})
        progress.started(1, {"training.loss_weights.cosine": 2.53333, "seed": 7})
        progress.scored(1, score(0.1234))
        progress.ended(0, "pruned")
    shown = text.getvalue()
    assert "\x1b" in shown
    last = shown[shown.rindex("Trials") :]
    rows = [line for line in last.splitlines() if "│" in line]
    assert [cell.strip() for cell in rows[0].split("│")[1:-1]] == [
        *("0", "pruned", "", "", "as given")
    ]
    assert [cell.strip() for cell in rows[1].split("│")[1:-1]] == [
        *("1", "running", "10", "0.123", "cosine 2.53, seed 7")
    ]
    assert "1 of 3 trials done" in last
    assert "trial 1: epoch" not in shown


@pytest.mark.parametrize(
    ("total", "done_before", "seconds", "left"),
    [
        # One trial and half of another took the time; two and a half of four are left.
        (4, 0, 60, "1 min 40 s"),
        (6, 2, 60, "1 min 40 s"),
        (4, 0, 12, "20 s"),
        (4, 0, 6000, "2 h 46 min"),
    ],
)
def test_time_left_goes_by_the_work_of_this_run(
    monkeypatch: pytest.MonkeyPatch, total: int, done_before: int, seconds: float, left: str
) -> None:
    where, text = console(terminal=False)
    progress = SweepProgress(total, 2, where, done_before=done_before)
    now = time.monotonic()
    monkeypatch.setattr("tune.callbacks.time.monotonic", lambda: now + seconds)
    progress.started(0, {})
    progress.started(1, {})
    progress.scored(1, score(0.1))
    progress.scored(0, score(0.2, 2))
    assert "left" not in text.getvalue()
    progress.ended(0, "complete")
    assert text.getvalue().endswith(f"about {left} left\n")
    assert f"{done_before + 1} of {total} trials done" in text.getvalue()


def test_best_so_far_is_among_complete_trials() -> None:
    where, text = console(terminal=False)
    progress = SweepProgress(4, 2, where)
    for number, value, state in (
        (0, 0.3, "complete"),
        (1, 0.9, "pruned"),
        (2, 0.5, "complete"),
        (3, 0.4, "complete"),
    ):
        progress.started(number, {})
        progress.scored(number, score(value))
        progress.ended(number, state)
    best = [
        line.split("best so far ")[1].split(",")[0]
        for line in text.getvalue().splitlines()
        if "best so far" in line
    ]
    assert best == ["trial 0 with 0.300"] * 2 + ["trial 2 with 0.500"] * 2


def with_two_scored_trials(progress: SweepProgress, directory: SweepDirectory) -> SweepCallback:
    """Return a callback that has heard of one score of each of trials 0 and 1."""
    stop = SweepStop(directory, progress.console)
    callback = SweepCallback(progress, directory, stop)
    for number in (0, 1):
        begin(directory.trial(number), number)
        callback.on_trial_start(0, [], trial(number))
        callback.on_trial_result(0, [], trial(number), score(0.25))
    return callback


def test_the_end_of_a_trial_that_was_stopped_is_written_down(directory: SweepDirectory) -> None:
    where, text = console(terminal=False)
    callback = with_two_scored_trials(SweepProgress(2, 2, where), directory)
    end(directory.trial(0))
    ended = directory.trial(0).state_path.read_bytes()
    callback.on_trial_complete(0, [], trial(0, finished=True))
    assert directory.trial(0).state_path.read_bytes() == ended
    callback.on_trial_complete(0, [], trial(1, finished=False))
    state = directory.trial(1).read_state()
    assert state is not None and state.state == "pruned"
    assert "trial 0 complete" in text.getvalue()
    assert "trial 1 pruned" in text.getvalue()


def test_the_best_trial_of_an_earlier_run_is_still_the_best() -> None:
    where, text = console(terminal=False)
    with SweepProgress(4, 2, where, done_before=2, best_before=(1, 0.3)) as progress:
        for number, value in ((2, 0.2), (3, 0.4)):
            progress.started(number, {})
            progress.scored(number, score(value, 2))
            progress.ended(number, "complete")
    told = [line for line in text.getvalue().splitlines() if "best so far" in line]
    assert "3 of 4 trials done, best so far trial 1 with 0.3" in told[0]
    assert "4 of 4 trials done, best so far trial 3 with 0.4" in told[1]


def test_a_failure_is_written_down_unless_the_trial_did_it(directory: SweepDirectory) -> None:
    where, text = console(terminal=False)
    callback = SweepCallback(SweepProgress(3, 2, where), directory, SweepStop(directory, where))
    for number in (0, 1):
        begin(directory.trial(number), number)
        callback.on_trial_start(0, [], trial(number))
    end(directory.trial(0), "failed", error="its own traceback")
    callback.on_trial_error(0, [], trial(0))
    callback.on_trial_error(0, [], trial(1))
    # Its process died before the trial began.
    callback.on_trial_error(0, [], trial(2))
    states = [directory.trial(number).read_state() for number in (0, 1, 2)]
    assert [state.state for state in states if state is not None] == ["failed"] * 3
    errors = [state.error for state in states if state is not None]
    died = "the trial's process died once: it was killed, or had no memory left"
    assert errors == ["its own traceback", died, died]
    for number, why in enumerate(("its own traceback", died, died)):
        line = f"trial {number} failed ({why}: see {directory.trial(number).state_path}); "
        assert line in text.getvalue()


def test_a_trial_whose_process_died_is_taken_up_again_and_its_deaths_are_counted(
    directory: SweepDirectory,
) -> None:
    where, text = console(terminal=False)
    callback = SweepCallback(SweepProgress(1, 2, where), directory, SweepStop(directory, where))
    begin(directory.trial(0), 0)
    killed = trial(0)
    killed.max_failures = 3
    callback.on_trial_start(0, [], killed)
    for _ in range(3):
        callback.on_trial_recover(0, [], killed)
    assert "trial 0: its process died; it goes on from its checkpoint (retry 3 of 3)" in (
        text.getvalue()
    )
    state = directory.trial(0).read_state()
    assert state is not None and state.state == "running"
    callback.on_trial_error(0, [], killed)
    state = directory.trial(0).read_state()
    assert state is not None and state.error is not None
    assert state.error.splitlines()[-1].startswith("the trial's process died 4 times")


def test_a_trial_that_failed_by_itself_is_not_taken_up_again(directory: SweepDirectory) -> None:
    where, text = console(terminal=False)
    callback = SweepCallback(SweepProgress(1, 2, where), directory, SweepStop(directory, where))
    failing = trial(0)
    failing.max_failures = 3
    callback.on_trial_start(0, [], failing)
    callback.on_trial_result(0, [], failing, {FAILED: True})
    assert failing.max_failures == 0
    assert "average certified radius" not in text.getvalue()


def test_a_trial_that_others_left_too_little_memory_goes_on_with_a_gpu_of_its_own(
    directory: SweepDirectory,
) -> None:
    where, text = console(terminal=False)
    callback = SweepCallback(SweepProgress(1, 2, where), directory, SweepStop(directory, where))
    crowded = trial(0)
    crowded.max_failures = 3
    crowded.placement_group_factory = PlacementGroupFactory([{"CPU": 2, "GPU": 0.5}])
    callback.on_trial_start(0, [], crowded)
    callback.on_trial_result(0, [], crowded, {CROWDED_OUT: True})
    callback.on_trial_recover(0, [], crowded)
    assert crowded.max_failures == 3
    assert crowded.placement_group_factory.required_resources == {"CPU": 2, "GPU": 1}
    assert text.getvalue().splitlines()[-1] == (
        "trial 0: its share of a GPU's memory is too small; it goes on from its checkpoint with a "
        "GPU of its own"
    )


def test_a_stopped_trial_is_neither_done_nor_pruned(directory: SweepDirectory) -> None:
    where, text = console(terminal=False)
    callback = with_two_scored_trials(SweepProgress(2, 2, where), directory)
    callback.on_trial_result(0, [], trial(0), {STOPPED: True})
    stopped = trial(0)
    stopped.last_result = {STOPPED: True}
    callback.on_trial_complete(0, [], stopped)
    state = directory.trial(0).read_state()
    assert state is not None and state.state == "running"
    assert text.getvalue().endswith("trial 0 stopped; it goes on when the sweep is resumed\n")
    end(directory.trial(1))
    callback.on_trial_complete(0, [], trial(1, finished=True))
    assert "1 of 2 trials done" in text.getvalue()


def test_a_callback_travels_without_its_terminal(directory: SweepDirectory) -> None:
    where, _ = console(terminal=True)
    with SweepProgress(1, 1, where) as progress:
        pickle.loads(pickle.dumps(SweepCallback(progress, directory, SweepStop(directory, where))))
