"""When the search ends early, as Ray Tune asks for it."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from tests.tune.sweeps import begin, end, make_sweep
from tune.callbacks import FAILURES_IN_A_ROW, SearchStopper, SweepCallback, SweepProgress
from tune.directory import SweepDirectory
from tune.stopping import SweepStop
from tune.worker import CAUSE, METRIC, REASON, STOPPED


class Search:
    """A search that Ray Tune would drive: trials begin, end and fail."""

    def __init__(self, directory: SweepDirectory) -> None:
        self.directory = directory
        console = Console(file=io.StringIO())
        self.stop = SweepStop(directory, console)
        self.callback = SweepCallback(SweepProgress(100, 1, console), directory, self.stop)
        self.stopper = SearchStopper(self.stop, self.callback)

    def begin(self, number: int) -> None:
        begin(self.directory.trial(number), number)
        self.callback.on_trial_start(0, [], trial(number))

    def complete(self, number: int, **result: Any) -> None:
        if STOPPED not in result:
            scored = {"evaluation": 1, "epoch": 1, METRIC: 0.5}
            self.callback.on_trial_result(0, [], trial(number), scored)
        self.callback.on_trial_complete(0, [], trial(number, **result))

    def fail(self, number: int, error: str) -> None:
        end(self.directory.trial(number), "failed", error)
        self.callback.on_trial_error(0, [], trial(number))


def trial(number: int, **result: Any) -> Any:
    return SimpleNamespace(config={"number": number, "parameters": {}}, last_result=result)


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return Search(make_sweep(tmp_path))


def test_many_failures_in_a_row_end_the_search_and_are_explained(search: Search) -> None:
    for number in range(FAILURES_IN_A_ROW):
        assert not search.stopper.stop_all()
        search.begin(number)
        loss = "inf" if number % 3 else "nan"
        search.fail(number, f"Traceback\nDivergedError: the loss is {loss}\n")
    assert search.stop.reason == "failures"
    assert search.stopper.stop_all()
    assert search.callback.cause == (
        "the last 10 trials failed, 10 of them with: DivergedError: the loss is inf"
    )


def test_a_trial_that_ends_well_ends_a_row_of_failures(search: Search) -> None:
    for number in range(2 * FAILURES_IN_A_ROW):
        search.begin(number)
        if number == FAILURES_IN_A_ROW - 1:
            search.complete(number, finished=True)
        else:
            search.fail(number, "MemoryError: no memory left")
        assert search.stopper.stop_all() is (number == 2 * FAILURES_IN_A_ROW - 1)


def test_the_search_waits_for_trials_that_save_their_state(search: Search) -> None:
    for number in (0, 1):
        search.begin(number)
    search.stop.request("interrupted")
    assert not search.stopper.stop_all()
    search.complete(0, **{STOPPED: True})
    assert not search.stopper.stop_all()
    search.complete(1, **{STOPPED: True})
    assert search.stopper.stop_all()


def test_a_trial_that_cannot_save_its_state_is_not_waited_for_for_ever(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    search.begin(0)
    search.stop.request("time")
    monkeypatch.setattr(search.stop, "overdue", lambda: True)
    assert search.stopper.stop_all()


def test_a_stopped_trial_does_not_end_a_row_of_failures(search: Search) -> None:
    search.begin(99)
    for number in range(FAILURES_IN_A_ROW - 1):
        search.begin(number)
        search.fail(number, "MemoryError: no memory left")
    search.complete(99, **{STOPPED: True})
    search.begin(50)
    search.fail(50, "OSError: the disk is full")
    assert search.callback.cause == (
        "the last 10 trials failed, 9 of them with: MemoryError: no memory left"
    )


def test_a_full_disk_ends_the_search_and_is_told(search: Search) -> None:
    search.begin(0)
    search.complete(
        0, **{STOPPED: True, REASON: "disk", CAUSE: "the disk is full: /data could not be written"}
    )
    assert search.stop.reason == "disk" and search.stopper.stop_all()
    assert search.callback.cause == "the disk is full: /data could not be written"
