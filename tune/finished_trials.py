"""The finished trials of a sweep, read from its directory."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tune.directory import SweepDirectory, SweepTrialFolder


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
    """Return the trials that ended, and number and parameters of those that did not."""
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
    """Return the trial of a folder, with the number in its record; None if it has not ended."""
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


def finite(value: Any) -> float | None:
    """Return a metric as a finite number, or None where it is none."""
    if value is None or not math.isfinite(value):
        return None
    return float(value)
