"""Optuna's study of a sweep: distributions, proposals, finished trials, importance of settings."""

import copy
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from decrop.seeds import derive_seed
from tune.domains import Domain, Space, contains, exists, ordered
from tune.finished_trials import FinishedTrial, finite
from tune.results.metric import MINIMISED
from tune.space import total_trials
from tune.sweep_file import SweepConfig

# With fewer the forest behind the shares has next to nothing to split.
LEAST_TRIALS = 8
# Optuna's own number; a third of a sweep that is too short for it.
_RANDOM_TRIALS = 10
_SEEDS = 2**32


def distribution(domain: Domain) -> BaseDistribution:
    """Return Optuna's description of a domain."""
    if domain.uniform is not None:
        return FloatDistribution(*domain.uniform)
    if domain.loguniform is not None:
        return FloatDistribution(*domain.loguniform, log=True)
    if domain.int is not None:
        return IntDistribution(*domain.int, step=domain.step)
    assert domain.choice is not None
    return CategoricalDistribution(domain.choice)


def suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """Let Optuna sample a value for every domain that exists beside the values sampled before."""
    parameters: dict[str, Any] = {}
    for path in ordered(space):
        if exists(space[path], parameters):
            parameters[path] = _suggest_one(trial, path, space[path])
    return parameters


def to_frozen_trial(
    finished: FinishedTrial, space: Space, *, objectives: int = 1
) -> FrozenTrial | None:
    """Return a trial as Optuna's study has it; None if the space could not have given it.

    `objectives` is their number; a complete trial that lacks one of them counts as failed.
    """
    if not contains(space, finished.parameters):
        return None
    steps = {step: value for step, value in finished.intermediate.items() if math.isfinite(value)}
    given = [finite(value) for value in (finished.value, *finished.others)]
    values = [value for value in given if value is not None]
    state = TrialState.FAIL
    if finished.state == "complete" and len(values) == len(given) == objectives:
        state = TrialState.COMPLETE
    elif finished.state == "pruned" and steps:
        state, values = TrialState.PRUNED, [steps[max(steps)]]
    if objectives > 1 and state is TrialState.PRUNED:
        # Of several objectives Optuna takes no scores of pruned trials: they count as weak.
        steps, values = {}, []
    return optuna.create_trial(
        state=state,
        values=values if values and state is not TrialState.FAIL else None,
        params=dict(finished.parameters),
        distributions={path: distribution(space[path]) for path in finished.parameters},
        intermediate_values=steps,
    )


class _KnownTrial(FrozenTrial):
    """A trial that ended, which nothing changes, so that studies may share what it holds.

    A storage copies each trial whole, which takes a study of thousands a second.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy.copy(self)


class KnownTrials:
    """The trials that ended as Optuna's studies of one sweep have them, each made once."""

    def __init__(self, sweep: SweepConfig) -> None:
        self._space, self._objectives = sweep.space, len(sweep.objectives)
        self._made: dict[int, tuple[FinishedTrial, FrozenTrial | None]] = {}

    def frozen(self, finished: FinishedTrial) -> FrozenTrial | None:
        """Return a trial (see `to_frozen_trial`)."""
        before = self._made.get(finished.number)
        if before is not None and before[0] is finished:
            return before[1]
        trial = to_frozen_trial(finished, self._space, objectives=self._objectives)
        if trial is not None:
            trial.__class__ = _KnownTrial
        self._made[finished.number] = finished, trial
        return trial


def known_study(
    sweep: SweepConfig,
    finished: Iterable[FinishedTrial],
    running: Mapping[int, Mapping[str, Any]],
    known: KnownTrials | None = None,
) -> optuna.Study:
    """Build the study of a sweep in memory, from those of its trials that the space could give.

    Args:
        running: parameters of trials that did not, by number.
        known: those that earlier studies of the sweep had.
    """
    space = sweep.space
    known = known or KnownTrials(sweep)
    trials = {trial.number: known.frozen(trial) for trial in finished}
    for number, parameters in running.items():
        if contains(space, parameters):
            trials[number] = optuna.create_trial(
                state=TrialState.RUNNING,
                params=dict(parameters),
                distributions={path: distribution(space[path]) for path in parameters},
            )
    study = _new_study([name in MINIMISED for name in sweep.objectives])
    for number in sorted(trials):
        if (trial := trials[number]) is not None:
            study.add_trial(trial)
    return study


def propose(
    sweep: SweepConfig,
    number: int,
    finished: Iterable[FinishedTrial],
    running: Mapping[int, Mapping[str, Any]],
    known: KnownTrials | None = None,
) -> dict[str, Any]:
    """Return what trial `number` is to try.

    It depends on the sweep's `search_seed`, on the number and on the trials that are given (see
    `known_study`), and on nothing else.
    """
    learns = sweep.search in ("tpe", "gp")
    study = known_study(sweep, finished if learns else (), running if learns else {}, known)
    study.sampler = _sampler(sweep, number)
    if 1 <= number <= len(sweep.points_to_evaluate):
        study.enqueue_trial(sweep.points_to_evaluate[number - 1])
    return suggest(study.ask(), sweep.space)


@dataclass(frozen=True)
class Importances:
    """Shares of the variance of scores, largest first.

    Attributes:
        evaluation: at which all the trials were compared, counted from 1.
        trials: that were compared.
        shares: in [0,1] by dotted path; they add up to 1.
    """

    evaluation: int
    trials: int
    shares: Mapping[str, float]


def parameter_importances(past: Sequence[FinishedTrial], space: Space) -> Importances | None:
    """Compare trials at the last evaluation that enough of them have reached.

    Pruned trials have no final score, and one after less training cannot stand beside those of
    others after all of it; so all are compared after the same training.

    Source: Hutter, Hoos and Leyton-Brown, An Efficient Approach for Assessing Hyperparameter
    Importance, ICML 2014.

    Returns:
        None where fewer than `LEAST_TRIALS` trials can be compared, they all scored the same, or
        no setting differs between them.
    """
    known = [
        (trial, dict(ended.intermediate))
        for ended in past
        if ended.state in ("complete", "pruned")
        and (trial := to_frozen_trial(ended, space)) is not None
    ]
    evaluations = {evaluation for _, scores in known for evaluation in scores}
    for evaluation in sorted(evaluations, reverse=True):
        compared = [
            (trial, score)
            for trial, scores in known
            if (score := finite(scores.get(evaluation))) is not None
        ]
        if len(compared) >= LEAST_TRIALS:
            break
    else:
        return None
    settings = {repr(sorted(trial.params.items())) for trial, _ in compared}
    if len({score for _, score in compared}) == 1 or len(settings) == 1:
        return None
    # Its forest is scikit-learn's, which a sweep does without until its end.
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    study = _new_study()
    # No tree of its forest may tell the scores apart, where next to nothing differs.
    with _quiet(), suppress(RuntimeError):
        for trial, score in compared:
            study.add_trial(
                optuna.create_trial(
                    value=score, params=trial.params, distributions=trial.distributions
                )
            )
        if shares := get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0)):
            return Importances(evaluation, len(compared), shares)
    return None


def _suggest_one(trial: optuna.Trial, path: str, domain: Domain) -> Any:
    if domain.uniform is not None:
        return trial.suggest_float(path, *domain.uniform)
    if domain.loguniform is not None:
        return trial.suggest_float(path, *domain.loguniform, log=True)
    if domain.int is not None:
        return trial.suggest_int(path, *domain.int, step=domain.step)
    return trial.suggest_categorical(path, domain.choice or ())


def _new_study(minimised: Sequence[bool] = (False,)) -> optuna.Study:
    directions = [
        StudyDirection.MINIMIZE if less else StudyDirection.MAXIMIZE for less in minimised
    ]
    with _quiet():
        return optuna.create_study(directions=directions, pruner=optuna.pruners.NopPruner())


def _sampler(sweep: SweepConfig, number: int) -> BaseSampler:
    # A stream of random numbers for each trial, for one that starts anew with every resumption
    # would propose the first trials again.
    seed = derive_seed(sweep.search_seed, "search", number) % _SEEDS
    if sweep.search not in ("tpe", "gp"):
        return RandomSampler(seed=seed)
    random_trials = min(_RANDOM_TRIALS, max(1, total_trials(sweep) // 3))
    with _quiet():
        if sweep.search == "gp":
            return GPSampler(
                seed=seed, n_startup_trials=random_trials, warn_independent_sampling=False
            )
        return TPESampler(
            seed=seed,
            n_startup_trials=random_trials,
            multivariate=True,
            # Settings that exist for some trials only are modelled among those.
            group=True,
            constant_liar=True,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Optuna says of a new study and of experimental arguments, in this block only."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
