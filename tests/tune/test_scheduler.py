"""What the scheduler decides about trials, told of scores as Ray Tune tells it."""

import random
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from tune.finished_trials import FinishedTrial
from tune.scheduler import EVALUATION, SparingScheduler, build_scheduler
from tune.sweep_file import PruningSettings

METRIC = "average_certified_radius"
CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP
# Every second trial goes on from rungs at 1, 2 and 4 evaluations.
SETTINGS = PruningSettings(grace_evaluations=1, reduction_factor=2)


class Scheduled:
    """Trials and the scheduler that judges them."""

    def __init__(self, settings: PruningSettings = SETTINGS, **given: Any) -> None:
        arguments: dict[str, Any] = {"metric": METRIC, "evaluations": 4, "past": (), **given}
        self.scheduler = build_scheduler(settings, **arguments)
        self._trials: dict[int, Any] = {}

    def score(self, number: int, evaluation: int, value: float) -> str:
        trial = self._trials.get(number)
        if trial is None:
            trial = SimpleNamespace(
                trial_id=str(number), config={"number": number, "reference": number == 0}
            )
            self._trials[number] = trial
            self.scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]
        result = {EVALUATION: evaluation, METRIC: value}
        return str(self.scheduler.on_trial_result(None, trial, result))  # type: ignore[arg-type]


def past(number: int, *scores: float) -> FinishedTrial:
    return FinishedTrial(number, {}, "pruned", scores[-1], dict(enumerate(scores, start=1)))


def test_weak_trials_end_and_strong_ones_go_on() -> None:
    scheduled = Scheduled()
    assert scheduled.score(1, 1, 0.5) == CONTINUE
    assert scheduled.score(2, 1, 0.4) == STOP
    assert scheduled.score(3, 1, 0.6) == CONTINUE
    assert scheduled.score(1, 2, 0.7) == CONTINUE
    assert scheduled.score(3, 2, 0.6) == STOP


def test_the_reference_trial_is_never_stopped_but_others_are_measured_by_it() -> None:
    scheduled = Scheduled()
    scheduled.score(1, 1, 0.9)
    for evaluation in range(1, 5):
        assert scheduled.score(0, evaluation, 0.1) == CONTINUE
    scheduled = Scheduled()
    scheduled.score(0, 1, 0.9)
    assert scheduled.score(1, 1, 0.8) == STOP


def test_with_a_lag_only_trials_that_lie_so_far_back_count() -> None:
    scheduled = Scheduled(lag=3)
    assert scheduled.score(1, 1, 0.9) == CONTINUE
    assert scheduled.score(3, 1, 0.1) == CONTINUE
    assert scheduled.score(4, 1, 0.1) == STOP
    assert scheduled.score(5, 1, 0.8) == STOP


def test_a_score_that_is_no_number_neither_stops_nor_counts() -> None:
    scheduled = Scheduled()
    assert scheduled.score(1, 1, float("nan")) == CONTINUE
    assert scheduled.score(2, 1, 0.1) == CONTINUE


def test_decisions_are_those_of_ray_tune() -> None:
    ours = Scheduled(PruningSettings(grace_evaluations=1, reduction_factor=3), evaluations=9)
    theirs = AsyncHyperBandScheduler(
        time_attr=EVALUATION,
        metric=METRIC,
        mode="max",
        grace_period=1,
        reduction_factor=3,
        max_t=10,
    )
    generator = random.Random(0)
    for number in range(1, 60):
        trial: Any = SimpleNamespace(trial_id=str(number))
        controller: Any = None
        theirs.on_trial_add(controller, trial)
        for evaluation in range(1, 9):
            value = generator.random()
            result = {EVALUATION: evaluation, METRIC: value}
            decision = theirs.on_trial_result(controller, trial, result)
            assert ours.score(number, evaluation, value) == decision
            if decision == STOP:
                break


def test_a_trial_is_spared_until_its_grace_is_over() -> None:
    scheduled = Scheduled(PruningSettings(grace_evaluations=3, reduction_factor=2))
    for evaluation in (1, 2, 3):
        assert scheduled.score(1, evaluation, 0.9) == CONTINUE
    assert scheduled.score(2, 1, 0.1) == CONTINUE
    assert scheduled.score(2, 2, 0.1) == CONTINUE
    assert scheduled.score(2, 3, 0.1) == STOP


def test_the_last_score_stops_no_leading_trial() -> None:
    scheduled = Scheduled(evaluations=3)
    assert [scheduled.score(1, evaluation, 0.5) for evaluation in (1, 2, 3)] == [CONTINUE] * 3


def test_scores_of_earlier_trials_count_after_a_resumption() -> None:
    earlier = [past(0, 0.9, 0.95), past(1, 0.5)]
    assert Scheduled().score(2, 1, 0.6) == CONTINUE
    resumed = Scheduled(past=earlier)
    # The better half of 0.9 and 0.5 begins at 0.7.
    assert resumed.score(2, 1, 0.6) == STOP
    assert resumed.score(3, 1, 0.8) == CONTINUE
    assert resumed.score(3, 2, 0.94) == STOP


def test_decisions_after_a_resumption_are_those_without_an_interruption() -> None:
    scores = {0: [0.5, 0.6], 1: [0.7, 0.8], 2: [0.3], 3: [0.75, 0.7]}
    uninterrupted = Scheduled()
    for number, values in scores.items():
        for evaluation, value in enumerate(values, start=1):
            uninterrupted.score(number, evaluation, value)
    resumed = Scheduled(past=[past(number, *values) for number, values in scores.items()])
    for number, value in ((4, 0.55), (5, 0.61), (6, 0.72), (7, 0.9)):
        for evaluation in (1, 2):
            decision = uninterrupted.score(number, evaluation, value)
            assert resumed.score(number, evaluation, value) == decision
            if decision == STOP:
                break


@pytest.mark.parametrize("evaluations", [1, 2])
def test_grace_may_exceed_the_evaluations_of_a_trial(evaluations: int) -> None:
    scheduled = Scheduled(PruningSettings(grace_evaluations=5), evaluations=evaluations)
    scheduled.score(1, evaluations, 0.9)
    assert scheduled.score(2, evaluations, 0.1) == CONTINUE


def test_without_pruning_every_trial_runs_to_its_end() -> None:
    scheduled = Scheduled(PruningSettings(enabled=False))
    assert isinstance(scheduled.scheduler, FIFOScheduler)
    assert not isinstance(scheduled.scheduler, SparingScheduler)
    scheduled.score(1, 1, 0.9)
    assert scheduled.score(2, 1, 0.1) == CONTINUE
