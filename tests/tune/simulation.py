"""Sweeps whose trials are tables of scores, on a clock of their own: no Ray, no training."""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tune.finished_trials import FinishedTrial
from tune.scheduler import EVALUATION, SuccessiveHalving
from tune.searcher import SweepSearcher
from tune.sweep_file import SweepConfig

SCORE = "average_certified_radius"


@dataclass(frozen=True)
class Event:
    """A score of a trial: when it came, and whether the trial goes on.

    Attributes:
        cost: of all trials so far, in evaluations.
        state: of the trial, after the scheduler's decision.
    """

    seconds: float
    cost: int
    number: int
    parameters: Mapping[str, Any]
    evaluation: int
    score: float
    state: str


def simulate(
    sweep: SweepConfig,
    scores: Callable[[int, Mapping[str, Any]], Sequence[float]],
    seconds: Callable[[int, int], float],
    *,
    at_once: int,
    past: Sequence[FinishedTrial] = (),
    unfinished: Sequence[tuple[int, Mapping[str, Any]]] = (),
    learnt: Sequence[FinishedTrial] = (),
) -> Iterator[Event]:
    """Run a sweep's searcher and scheduler as Ray Tune does, and yield scores as they come.

    Args:
        sweep: its settings.
        scores: of a trial of a number and parameters, at all its evaluations.
        seconds: that a trial of a number needs for an evaluation, counted from 1.
        at_once: trials.
        past: trials that ended before.
        unfinished: numbers and parameters of those that began before.
        learnt: trials of earlier sweeps, with numbers below 0.
    """
    searcher = SweepSearcher(
        sweep,
        metric=SCORE,
        past=past,
        unfinished=unfinished,
        time_attr=EVALUATION,
        learnt=learnt,
    )
    halving: SuccessiveHalving | None = None
    running: dict[int, tuple[str, Mapping[str, Any], Sequence[float]]] = {}
    queue: list[tuple[float, int, int]] = []
    now, cost, begun = 0.0, 0, 0
    while True:
        while len(running) < at_once:
            suggested = searcher.suggest(str(begun))
            if not isinstance(suggested, dict):
                break
            number, parameters = suggested["number"], suggested["parameters"]
            running[number] = str(begun), parameters, scores(number, parameters)
            heapq.heappush(queue, (now + seconds(number, 1), number, 1))
            begun += 1
        if not queue:
            return
        now, number, evaluation = heapq.heappop(queue)
        name, parameters, all_scores = running[number]
        if halving is None:
            halving = _halving(sweep, len(all_scores), [*learnt, *past])
        score, last = all_scores[evaluation - 1], evaluation == len(all_scores)
        result = {SCORE: score, EVALUATION: evaluation, "finished": last}
        goes_on = not sweep.pruning.enabled or halving.goes_on(number, evaluation, score)
        cost += 1
        state = "complete" if last else "running" if goes_on or number == 0 else "pruned"
        if state == "running":
            searcher.on_trial_result(name, result)
            following = evaluation + 1
            heapq.heappush(queue, (now + seconds(number, following), number, following))
        else:
            searcher.on_trial_complete(name, result)
            del running[number]
        yield Event(now, cost, number, parameters, evaluation, score, state)


def _halving(
    sweep: SweepConfig, evaluations: int, past: Sequence[FinishedTrial]
) -> SuccessiveHalving:
    halving = SuccessiveHalving(sweep.pruning, evaluations, lag=sweep.lag)
    for trial in past:
        for evaluation, score in sorted(trial.intermediate.items()):
            halving.goes_on(trial.number, evaluation, score)
    return halving
