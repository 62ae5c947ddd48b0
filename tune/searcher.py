"""Proposals for Ray Tune from Optuna, with trial 0 first and earlier trials remembered."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from ray.air.constants import TRAINING_ITERATION
from ray.tune.search import Searcher

from decrop.seeds import derive_seed
from tune.finished_trials import PastTrial, finite, quiet_optuna, recorded
from tune.space import (
    contains,
    listed_trials,
    reference_parameters,
    suggest,
    total_trials,
)
from tune.sweep_file import SweepConfig

# Optuna's own number; a third of a sweep that is too short for it.
_RANDOM_TRIALS = 10
_SEEDS = 2**32


@dataclass
class _Running:
    """A trial handed to Ray Tune; `trial` is None where Optuna is not told of it."""

    trial: optuna.Trial | None
    reported: set[int] = field(default_factory=set)

    def report(self, step: int, value: float) -> None:
        # A trial that Tune retries, and the last result of every trial, come twice.
        if self.trial is not None and step not in self.reported and math.isfinite(value):
            self.trial.report(value, step)
            self.reported.add(step)


class SweepSearcher(Searcher):
    """Hands out trial 0, then trials to take up again, then new ones, until the sweep has all.

    What trial n is to try depends on the sweep's `search_seed`, on n and on the trials known by
    then, so a sweep that runs one trial at a time proposes the same whether or not it was
    interrupted.

    Each suggestion is `{"number": int, "parameters": {dotted path: value}, "reference": bool}`.
    The settings of a reference trial (trial 0) are `reference_config(sweep)`, of the others
    `trial_config_for(sweep, parameters)`.

    A trial ends complete if its last result says `finished: True` and has a finite metric; pruned
    if it does not say so; failed on an error or a metric that is not finite.

    Args:
        sweep: The sweep, with `base` merged.
        metric: Key of the score in results, to be maximised.
        past: Trials that ended before.
        unfinished: Number and parameters of trials to take up again.
        time_attr: Key of the evaluation's number in results, an integer that grows.

    Raises:
        InputError: the sweep is a grid and a point of it cannot be built.
    """

    def __init__(
        self,
        sweep: SweepConfig,
        *,
        metric: str,
        past: Sequence[PastTrial] = (),
        unfinished: Sequence[tuple[int, Mapping[str, Any]]] = (),
        time_attr: str = TRAINING_ITERATION,
    ) -> None:
        super().__init__(metric=metric, mode="max")
        self._sweep = sweep
        self._time_attr = time_attr
        self._running: dict[str, _Running] = {}
        with quiet_optuna():
            self._study = optuna.create_study(
                direction="maximize", pruner=optuna.pruners.NopPruner()
            )
        for trial in sorted(past, key=lambda trial: trial.number):
            self._remember(trial)
        known = {trial.number for trial in past} | {number for number, _ in unfinished}
        self._waiting = _waiting(sweep, {trial.number for trial in past}, unfinished)
        self._new = _new_trials(sweep, known | {0})

    def suggest(  # type: ignore[override]  # Ray declares no type for FINISHED.
        self, trial_id: str
    ) -> dict[str, Any] | str:
        """Return the next trial's number and parameters, or `Searcher.FINISHED`."""
        if self._waiting:
            number, given = self._waiting.pop(0)
        elif self._new:
            number, given = self._new.pop(0)
        else:
            return Searcher.FINISHED
        trial, parameters = self._ask(number, given)
        self._running[trial_id] = _Running(trial)
        return {"number": number, "parameters": parameters, "reference": number == 0}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell Optuna a held-out score of a running trial."""
        running = self._running.get(trial_id)
        if running is not None:
            self._report(running, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna how a trial ended; a second end of the same trial is ignored."""
        running = self._running.pop(trial_id, None)
        if running is None or running.trial is None:
            return
        value = finite((result or {}).get(self.metric))
        if error or value is None:
            self._study.tell(running.trial, state=TrialState.FAIL)
        elif result is not None and result.get("finished") is True:
            self._study.tell(running.trial, value, state=TrialState.COMPLETE)
        else:
            # Tune does not pass on the result at which it stops a trial; Optuna takes the last
            # reported value as that of a pruned trial.
            self._report(running, result or {})
            self._study.tell(running.trial, state=TrialState.PRUNED)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing, for a sweep resumes from its trials' folders."""

    def _report(self, running: _Running, result: Mapping[str, Any]) -> None:
        value, step = finite(result.get(self.metric)), result.get(self._time_attr)
        if value is not None and step is not None:
            running.report(int(step), value)

    def _ask(
        self, number: int, given: Mapping[str, Any] | None
    ) -> tuple[optuna.Trial | None, dict[str, Any]]:
        """Enter a trial in the study, with given parameters or new ones."""
        space = self._sweep.space
        if given is not None and not contains(space, given):
            return None, dict(given)
        if given is not None:
            self._study.enqueue_trial(dict(given))
        self._study.sampler = _sampler(self._sweep, number)
        trial = self._study.ask()
        return trial, suggest(trial, space)

    def _remember(self, past: PastTrial) -> None:
        trial = recorded(past, self._sweep.space)
        if trial is not None:
            self._study.add_trial(trial)


def _waiting(
    sweep: SweepConfig, ended: set[int], unfinished: Sequence[tuple[int, Mapping[str, Any]]]
) -> list[tuple[int, Mapping[str, Any] | None]]:
    """Return trial 0, unless it has ended, and the unfinished trials by number."""
    again: list[tuple[int, Mapping[str, Any] | None]] = sorted(
        (trial for trial in unfinished if trial[0] != 0), key=lambda trial: trial[0]
    )
    return again if 0 in ended else [(0, reference_parameters(sweep)), *again]


def _new_trials(sweep: SweepConfig, known: set[int]) -> list[tuple[int, dict[str, Any] | None]]:
    """Return the numbers not taken; with what is listed for them, or None where Optuna chooses."""
    listed = listed_trials(sweep)
    if listed is not None:
        points = enumerate(listed, start=1)
        return [(number, point) for number, point in points if number not in known]
    total = total_trials(sweep)
    numbers = [number for number in range(total) if number not in known]
    return [(number, None) for number in numbers[: max(0, total - len(known))]]


def _sampler(sweep: SweepConfig, number: int) -> BaseSampler:
    """Return the sampler of one trial.

    A stream of random numbers for each trial, for one that starts anew with every resumption would
    propose the first trials again.
    """
    seed = derive_seed(sweep.search_seed, "search", number) % _SEEDS
    if sweep.search != "tpe":
        return RandomSampler(seed=seed)
    with quiet_optuna():
        return TPESampler(
            seed=seed,
            n_startup_trials=min(_RANDOM_TRIALS, max(1, total_trials(sweep) // 3)),
            multivariate=True,
            # Settings that exist for some trials only are modelled among those.
            group=True,
            constant_liar=True,
        )
