"""The finished trials of a sweep, read from its directory."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from safetensors import safe_open

from decrop.files import MOST_WEIGHTS_BYTES, require_regular
from tune.directory import SweepDirectory, SweepTrialFolder
from tune.results.metric import PARAMETERS, Metric
from tune.space import objectives_of


@dataclass(frozen=True)
class FinishedTrial:
    """A trial that ended: its values of what the sweep varies, and its held-out scores.

    Attributes:
        value: the last score by the sweep's first objective; None where there is none.
        intermediate: scores while training, by evaluation.
        others: values of the sweep's other objectives, of complete trials.
    """

    number: int
    parameters: Mapping[str, Any]
    state: Literal["complete", "pruned", "failed"]
    value: float | None = None
    intermediate: Mapping[int, float] = field(default_factory=dict)
    others: tuple[float, ...] = ()


def finished_trials(
    directory: SweepDirectory,
) -> tuple[list[FinishedTrial], list[tuple[int, dict[str, Any]]]]:
    """Return the trials that ended, and number and parameters of those that did not."""
    objectives = objectives_of(directory.read_record().sweep)
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
                report["evaluation"]: objectives[0].score(report)
                for report in folder.read_reports()
            }
            last = scores[max(scores)] if scores else None
            others: tuple[float, ...] = ()
            if state.state == "complete":
                others = other_values(folder, objectives)
            finished.append(FinishedTrial(number, parameters, state.state, last, scores, others))
    return finished, unfinished


def other_values(folder: SweepTrialFolder, objectives: Sequence[Metric]) -> tuple[float, ...]:
    """Return the values of a complete trial by all objectives but the first."""
    outcome = read_outcome(folder) if len(objectives) > 1 else None
    if outcome is None:
        return ()
    return tuple(metric.score(outcome) for metric in objectives[1:])


def read_outcome(folder: SweepTrialFolder) -> dict[str, Any] | None:
    """Read a trial's `result.json`, with the number of weights of its denoiser; None if absent."""
    result = folder.read_result()
    return None if result is None else {**result, PARAMETERS: count_weights(folder)}


def count_weights(folder: SweepTrialFolder) -> int:
    """Return how many weights a trial's denoiser has; 0 where there is none."""
    path = folder.denoiser_path
    if not path.exists():
        return 0
    require_regular(path, most_bytes=MOST_WEIGHTS_BYTES)
    with safe_open(path, framework="pt") as weights:
        # It is no mapping.
        names = weights.keys()
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in names)


def finite(value: Any) -> float | None:
    """Return a metric as a finite number, or None where it is none."""
    if value is None or not math.isfinite(value):
        return None
    return float(value)
