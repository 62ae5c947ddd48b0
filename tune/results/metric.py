"""Metrics of held-out images by which trials are ranked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decrop.errors import InputError
from decrop.trial.result import radius_key

AVERAGE_RADIUS = "acr"
_ACCURACY = "certified_accuracy@"


@dataclass(frozen=True)
class Metric:
    """Average certified radius, or certified accuracy at a radius.

    Attributes:
        radius: L2 radius in [0,1] pixels; None for the average certified radius.
    """

    radius: float | None = None

    @property
    def name(self) -> str:
        """Name it as `--by` takes it."""
        return AVERAGE_RADIUS if self.radius is None else f"{_ACCURACY}{self.radius:g}"

    @property
    def phrase(self) -> str:
        """Name it in a sentence."""
        if self.radius is None:
            return "average certified radius"
        return f"certified accuracy at r = {self.radius:g}"

    def score(self, result: Mapping[str, Any]) -> float:
        """Return its value in a `result.json`."""
        if self.radius is None:
            return float(result["average_certified_radius"])
        accuracies = result["certified_accuracy"]
        if radius_key(self.radius) not in accuracies:
            raise InputError(
                f"{self.name}: was not certified in every trial; use {AVERAGE_RADIUS}."
            )
        return float(accuracies[radius_key(self.radius)])

    def text(self, score: float) -> str:
        """Write a value: a radius, or a share in percent."""
        return f"{score:.3f}" if self.radius is None else f"{100 * score:.1f} %"


def metric_named(text: str, radii: Sequence[float], *, source: str) -> Metric:
    """Return the metric of a name, `acr` or `certified_accuracy@RADIUS` with one of the radii.

    `source` is where the name was given, for the message.
    """
    valid = {metric.name: metric for metric in (Metric(), *map(Metric, radii))}
    name = text
    if text.startswith(_ACCURACY):
        try:
            name = Metric(float(text.removeprefix(_ACCURACY))).name
        except ValueError:
            name = text
    if name not in valid:
        raise InputError(f"{source} {text}: must be one of {', '.join(valid)}.")
    return valid[name]
