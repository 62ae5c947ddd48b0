"""The scheduler that prunes trials: asynchronous successive halving, which spares trial 0."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from tune.finished_trials import FinishedTrial
from tune.sweep_file import PruningSettings

EVALUATION = "evaluation"


class SparingScheduler(AsyncHyperBandScheduler):
    """Asynchronous successive halving (Li et al. 2020) that never stops the reference trial."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Record a score; decide whether its trial goes on."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if trial.config["reference"] else decision


def build_scheduler(
    settings: PruningSettings, *, metric: str, evaluations: int, past: Sequence[FinishedTrial]
) -> TrialScheduler:
    """Make the scheduler of a sweep, which maximises a metric, and tell it scores of past trials.

    `evaluations` is the number of scores that a trial reports in all.
    """
    if not settings.enabled:
        return FIFOScheduler()
    scheduler = SparingScheduler(
        time_attr=EVALUATION,
        metric=metric,
        mode="max",
        grace_period=settings.grace_evaluations,
        reduction_factor=settings.reduction_factor,
        # Above the last score, at which a trial has finished and cannot be stopped.
        max_t=max(evaluations + 1, settings.grace_evaluations + 1),
    )
    for trial in past:
        # The scheduler reads no more than this of a trial, and nothing of the controller.
        replayed: Any = SimpleNamespace(
            trial_id=f"past {trial.number}", config={"reference": trial.number == 0}
        )
        controller: Any = None
        scheduler.on_trial_add(controller, replayed)
        for step, value in sorted(trial.intermediate.items()):
            scheduler.on_trial_result(controller, replayed, {EVALUATION: step, metric: value})
        scheduler.on_trial_remove(controller, replayed)
    return scheduler
