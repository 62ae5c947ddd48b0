"""Trials that ended: read from a sweep directory, and as Optuna remembers them (no Ray here)."""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from tune.directory import SweepDirectory, SweepTrialFolder
from tune.domains import Space
from tune.space import contains, distributions


@dataclass(frozen=True)
class PastTrial:
    """A trial that ended before this search began.

    Args:
        number: Its number in the sweep.
        parameters: Its values of what the sweep varies.
        state: complete, pruned or failed.
        value: Its held-out score; None where there is none.
        intermediate: Its held-out scores while training, by evaluation.
    """

    number: int
    parameters: Mapping[str, Any]
    state: Literal["complete", "pruned", "failed"]
    value: float | None = None
    intermediate: Mapping[int, float] = field(default_factory=dict)


def ended_trials(
    directory: SweepDirectory,
) -> tuple[list[PastTrial], list[tuple[int, dict[str, Any]]]]:
    """Return the trials that ended, and number and parameters of those that did not.

    Raises:
        InputError: a file of a trial is broken.
    """
    past: list[PastTrial] = []
    unfinished: list[tuple[int, dict[str, Any]]] = []
    for number in directory.trial_numbers():
        folder = directory.trial(number)
        record, ended = folder.read_record(), past_trial(folder)
        if ended is not None:
            past.append(replace(ended, number=number))
        elif record is not None:
            unfinished.append((number, dict(record.parameters)))
    return past, unfinished


def past_trial(folder: SweepTrialFolder) -> PastTrial | None:
    """Return the trial of a folder, with the number in its record; None if it has not ended.

    Raises:
        InputError: a file of the trial is broken.
    """
    record, state = folder.read_record(), folder.read_state()
    if record is None or state is None or state.state == "running":
        return None
    scores = {
        report["evaluation"]: report["average_certified_radius"] for report in folder.read_reports()
    }
    return PastTrial(
        number=record.number,
        parameters=dict(record.parameters),
        state=state.state,
        value=scores[max(scores)] if scores else None,
        intermediate=scores,
    )


def recorded(past: PastTrial, space: Space) -> FrozenTrial | None:
    """Return a trial as Optuna's study has it; None if the space could not have given it."""
    if not contains(space, past.parameters):
        return None
    steps = {step: value for step, value in past.intermediate.items() if math.isfinite(value)}
    state, value = TrialState.FAIL, finite(past.value)
    if past.state == "complete" and value is not None:
        state = TrialState.COMPLETE
    elif past.state == "pruned" and steps:
        state, value = TrialState.PRUNED, steps[max(steps)]
    return optuna.create_trial(
        state=state,
        value=None if state is TrialState.FAIL else value,
        params=dict(past.parameters),
        distributions=distributions(space, past.parameters),
        intermediate_values=steps,
    )


def finite(value: Any) -> float | None:
    """Return a metric as a finite number, or None where it is none."""
    if value is None or not math.isfinite(value):
        return None
    return float(value)


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silence what Optuna says of a new study and of experimental arguments, in this block only."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
