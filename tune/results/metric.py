"""Metrics of held-out images by which trials are searched, pruned and ranked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from decrop.errors import InputError
from decrop.trial.result import NOISY_IMAGE, radius_key

AVERAGE_RADIUS = "average_certified_radius"
# Its name in earlier sweeps, whose files are read.
_SHORT_NAMES = {"acr": AVERAGE_RADIUS}
PARAMETERS = "parameters"
MINIMISED = ("latency", "parameters")
_ACCURACY = "certified_accuracy@"
Kind = Literal[
    "average_certified_radius",
    "certified_accuracy",
    "certified_accuracy_area",
    "clean_accuracy",
    "latency",
    "parameters",
]
_PHRASES: dict[Kind, str] = {
    "average_certified_radius": "average certified radius",
    "certified_accuracy": "certified accuracy",
    "certified_accuracy_area": "mean certified accuracy over the radii",
    "clean_accuracy": "accuracy without noise",
    "latency": "time of an image with noise",
    "parameters": "weights of the denoiser",
}


@dataclass(frozen=True)
class Metric:
    """What one number of a trial is.

    Attributes:
        radius: L2 radius in [0,1] pixels, of certified accuracy alone.
        kind: average_certified_radius; certified_accuracy at the radius;
            certified_accuracy_area, the area under the curve from the first to the last of
            certification.radii, divided by their distance; clean_accuracy, without noise; latency,
            seconds of an image with noise; parameters, weights of the denoiser.
    """

    radius: float | None = None
    kind: Kind = "average_certified_radius"

    def __post_init__(self) -> None:
        if self.radius is not None:
            object.__setattr__(self, "kind", "certified_accuracy")

    @property
    def name(self) -> str:
        """Name it as `objectives` and `--by` take it."""
        return self.kind if self.radius is None else f"{_ACCURACY}{self.radius:g}"

    @property
    def phrase(self) -> str:
        """Name it in a sentence."""
        at = "" if self.radius is None else f" at r = {self.radius:g}"
        return f"{_PHRASES[self.kind]}{at}"

    @property
    def minimised(self) -> bool:
        """Whether less is better."""
        return self.kind in MINIMISED

    @property
    def while_training(self) -> bool:
        """Whether every evaluation of a trial has it, so that trials can be pruned by it."""
        return self.kind in (AVERAGE_RADIUS, "certified_accuracy", "certified_accuracy_area")

    def score(self, result: Mapping[str, Any]) -> float:
        """Return its value in a trial's outcome, or, if it is known by then, in a report."""
        if self.kind == AVERAGE_RADIUS:
            return float(result[AVERAGE_RADIUS])
        if self.kind == "certified_accuracy_area":
            radii = sorted(map(float, result["certified_accuracy"]))
            accuracies = [result["certified_accuracy"][radius_key(radius)] for radius in radii]
            return float(np.trapezoid(accuracies, radii)) / (radii[-1] - radii[0])
        if self.radius is not None:
            accuracies = result["certified_accuracy"]
            if radius_key(self.radius) not in accuracies:
                raise InputError(
                    f"{self.name}: was not certified in every trial; use {AVERAGE_RADIUS}."
                )
            return float(accuracies[radius_key(self.radius)])
        found = result.get("seconds", {}).get(NOISY_IMAGE)
        value = found if self.kind == "latency" else result.get(self.kind)
        if value is None:
            raise InputError(
                f"{self.name}: was not measured in every trial; a sweep measures it that has it "
                f"among its objectives. Use {AVERAGE_RADIUS}."
            )
        return float(value)

    def worth(self, score: float) -> float:
        """Return a value of which more is better."""
        return -score if self.minimised else score

    def text(self, score: float) -> str:
        """Write a value: a radius, a share in percent, milliseconds, or a number of weights."""
        if self.kind == AVERAGE_RADIUS:
            return f"{score:.3f}"
        if self.kind == "latency":
            return f"{1000 * score:.3g} ms"
        return f"{score:,.0f}" if self.kind == "parameters" else f"{100 * score:.1f} %"


def metric_named(text: str, radii: Sequence[float], *, source: str) -> Metric:
    """Return the metric of a name; those of certified accuracy have one of the radii.

    `source` is where the name was given, for the message.
    """
    kinds: list[Kind] = ["clean_accuracy", "latency", "parameters"]
    if len(radii) > 1:
        kinds.insert(0, "certified_accuracy_area")
    metrics = (Metric(), *map(Metric, radii), *(Metric(kind=kind) for kind in kinds))
    valid = {metric.name: metric for metric in metrics}
    name = _SHORT_NAMES.get(text, text)
    if text.startswith(_ACCURACY):
        try:
            name = Metric(float(text.removeprefix(_ACCURACY))).name
        except ValueError:
            name = text
    if name not in valid:
        raise InputError(f"{source} {text}: must be one of {', '.join(valid)}.")
    return valid[name]


def metrics_named(names: Sequence[str], radii: Sequence[float], *, source: str) -> list[Metric]:
    """Return the metrics of a sweep's `objectives`, of which trials are pruned by the first.

    `source` is where the names were given, for the message.
    """
    metrics = [metric_named(name, radii, source=source) for name in names]
    for position, metric in enumerate(metrics):
        if metric in metrics[:position]:
            raise InputError(f"{source} {metric.name}: is given twice; give it once.")
    if not metrics[0].while_training:
        raise InputError(
            f"{source} {metrics[0].name}: must not be the first, for trials are pruned by the "
            f"first while they train, and it is known only at their end; put {AVERAGE_RADIUS}, "
            "certified_accuracy@RADIUS or certified_accuracy_area first."
        )
    return metrics


def pareto_front(values: Mapping[int, Sequence[float]], metrics: Sequence[Metric]) -> list[int]:
    """Return the trials that no other one beats, by number.

    One beats another if it is as good in every metric and better in one.

    Args:
        values: of the metrics, by number of the trial.
        metrics: in the order of the values.
    """
    worths = {
        number: tuple(m.worth(value) for m, value in zip(metrics, row, strict=True))
        for number, row in values.items()
    }
    return [
        number
        for number, own in sorted(worths.items())
        if not any(
            other != own and all(a >= b for a, b in zip(other, own, strict=True))
            for other in worths.values()
        )
    ]
