"""The finished trials of a sweep, read from its directory."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tune.directory import SweepDirectory


@dataclass(frozen=True)
class FinishedTrial:
    """A trial that ended: its values of what the sweep varies, and its held-out scores.

    Attributes:
        value: the last score; None where there is none.
        intermediate: scores while training, by evaluation.
    """

    number: int
    parameters: Mapping[str, Any]
    state: Literal["complete", "pruned", "failed"]
    value: float | None = None
    intermediate: Mapping[int, float] = field(default_factory=dict)


def finished_trials(
    directory: SweepDirectory,
) -> tuple[list[FinishedTrial], list[tuple[int, dict[str, Any]]]]:
    """Return the trials that ended, and number and parameters of those that did not."""
    finished: list[FinishedTrial] = []
    unfinished: list[tuple[int, dict[str, Any]]] = []
    for number in directory.trial_numbers():
        folder = directory.trial(number)
        record, state = folder.read_record(), folder.read_state()
        if record is None:
            continue
        parameters = dict(record.parameters)
        if state is None or state.state == "running":
            unfinished.append((number, parameters))
        else:
            scores = {
                report["evaluation"]: report["average_certified_radius"]
                for report in folder.read_reports()
            }
            last = scores[max(scores)] if scores else None
            finished.append(FinishedTrial(number, parameters, state.state, last, scores))
    return finished, unfinished


def finite(value: Any) -> float | None:
    """Return a metric as a finite number, or None where it is none."""
    if value is None or not math.isfinite(value):
        return None
    return float(value)
