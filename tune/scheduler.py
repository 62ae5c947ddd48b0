"""The scheduler that prunes trials: asynchronous successive halving, which spares trial 0."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tune.finished_trials import FinishedTrial
from tune.sweep_file import PruningSettings

EVALUATION = "evaluation"


class SuccessiveHalving:
    """Asynchronous successive halving (Li et al. 2020, algorithm 2), in one bracket.

    At rungs of `grace_evaluations` x `reduction_factor`^k evaluations, a trial ends unless its
    score is among the best 1 / `reduction_factor` of those recorded there.
    """

    def __init__(
        self, settings: PruningSettings, evaluations: int, *, lag: int | None = None
    ) -> None:
        """Begin without scores.

        Args:
            evaluations: of a trial, if it is not pruned.
            lag: by which a trial is compared with trials of lower numbers alone; with all that have
                reached the rung if None.
        """
        self._reduction_factor = settings.reduction_factor
        self._lag = lag
        self._recorded: dict[int, dict[int, float]] = {}
        rung = settings.grace_evaluations
        while rung <= evaluations:
            self._recorded[rung] = {}
            rung *= settings.reduction_factor

    def goes_on(self, number: int, evaluation: int, score: float) -> bool:
        """Record a score of a trial; tell whether the trial goes on."""
        reached = [rung for rung in self._recorded if rung <= evaluation]
        rung = max((r for r in reached if number not in self._recorded[r]), default=None)
        if rung is None or not math.isfinite(score):
            return True
        others = [
            value
            for other, value in self._recorded[rung].items()
            if self._lag is None or other <= number - self._lag
        ]
        self._recorded[rung][number] = score
        best = 100 * (1 - 1 / self._reduction_factor)
        return not others or score >= float(np.percentile(others, best))


class SparingScheduler(FIFOScheduler):
    """Successive halving for Ray Tune, which never stops the reference trial.

    Ray Tune's own compares a trial with whatever has reached the rung by then, which depends on
    timing.
    """

    def __init__(self, halving: SuccessiveHalving, metric: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._halving = halving
        self._score = metric

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Record a score; decide whether its trial goes on."""
        goes_on = self._record(trial, result)
        stops = not goes_on and not trial.config["reference"]
        return TrialScheduler.STOP if stops else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Record the last score."""
        self._record(trial, result)

    def _record(self, trial: Any, result: dict[str, Any]) -> bool:
        if EVALUATION not in result or self._score not in result:
            return True
        number = trial.config["number"]
        return self._halving.goes_on(number, int(result[EVALUATION]), float(result[self._score]))


def build_scheduler(
    settings: PruningSettings,
    *,
    metric: str,
    evaluations: int,
    past: Sequence[FinishedTrial],
    lag: int | None = None,
) -> TrialScheduler:
    """Make the scheduler of a sweep, which maximises a metric, and tell it scores of past trials.

    `evaluations` is the number of scores that a trial reports in all; `lag` is the sweep's.
    """
    if not settings.enabled:
        return FIFOScheduler()
    halving = SuccessiveHalving(settings, evaluations, lag=lag)
    for trial in past:
        for evaluation, score in sorted(trial.intermediate.items()):
            halving.goes_on(trial.number, evaluation, score)
    return SparingScheduler(halving, metric)
