"""Rank trials by their held-out score, and choose those to certify on the test split."""

from typing import Any

from decrop.errors import InputError
from tune.directory import SweepDirectory
from tune.finished_trials import read_outcome
from tune.results.metric import AVERAGE_RADIUS, Metric, metric_named
from tune.space import objectives_of

REFERENCE = 0


def ranking(directory: SweepDirectory, metric: Metric | None = None) -> dict[int, float]:
    """Return the held-out scores of the complete trials by number, best first.

    Equal scores are ordered by average certified radius, then by number. The metric is the sweep's
    own if not given. Trials without the metric, of before it was measured, are an InputError.
    """
    metric = metric or sweep_metric(directory)
    scores = []
    for number, result in held_out_results(directory).items():
        scores.append((metric.score(result), Metric().score(result), number))
    ordered = sorted(scores, key=lambda score: (-metric.worth(score[0]), -score[1], score[2]))
    return {number: score for score, _, number in ordered}


def held_out_results(directory: SweepDirectory) -> dict[int, dict[str, Any]]:
    """Return the held-out outcomes of the complete trials, by number (see `read_outcome`)."""
    results = {}
    for number in directory.trial_numbers():
        folder = directory.trial(number)
        state, outcome = folder.read_state(), read_outcome(folder)
        if state is not None and state.state == "complete" and outcome is not None:
            results[number] = outcome
    return results


def objective_values(directory: SweepDirectory) -> dict[int, tuple[float, ...]]:
    """Return the values of a sweep's objectives, by number of the complete trials."""
    metrics = objectives_of(directory.read_record().sweep)
    return {
        number: tuple(metric.score(result) for metric in metrics)
        for number, result in held_out_results(directory).items()
    }


def chosen(ranked: list[int], top: int) -> list[int]:
    """Return the trials to certify on test: the `top` first of those ranked, and trial 0."""
    first = ranked[:top]
    return [*first, REFERENCE] if REFERENCE in ranked[top:] else first


def sweep_metric(directory: SweepDirectory) -> Metric:
    """Return the metric that the sweep's file ranks by: its first objective if it names none."""
    sweep = directory.read_record().sweep
    by = sweep.leaderboard.by
    if by is None:
        return objectives_of(sweep)[0]
    if by == AVERAGE_RADIUS:
        return Metric()
    return metric_named(by, certified_radii(directory), source=f"{directory.path}: leaderboard.by")


def certified_radii(directory: SweepDirectory) -> tuple[float, ...]:
    """Return the radii at which a sweep reports certified accuracy."""
    for number in directory.trial_numbers():
        record = directory.trial(number).read_record()
        if record is not None:
            return record.config.certification.radii
    raise InputError(f"{directory.path} has no trials yet.")
