"""Rank trials by their held-out score, and choose those to certify on the test split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decrop.errors import InputError
from decrop.trial.result import radius_key
from tune.directory import SweepDirectory

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
        """Return its value in a `result.json`.

        Raises:
            InputError: the result is not of this radius.
        """
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
    """Return the metric of a name, `acr` or `certified_accuracy@RADIUS`.

    Args:
        text: the name.
        radii: at which there are certified accuracies.
        source: where the name was given, for the message.

    Raises:
        InputError: there is no such metric.
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


REFERENCE = 0


def ranking(directory: SweepDirectory, metric: Metric | None = None) -> dict[int, float]:
    """Return the held-out scores of the complete trials by number, best first.

    Equal scores are ordered by average certified radius, then by number.

    Args:
        directory: of the sweep.
        metric: of the score; the sweep's own if not given.
    """
    metric = metric or sweep_metric(directory)
    scores = []
    for number, result in held_out_results(directory).items():
        scores.append((metric.score(result), Metric().score(result), number))
    ordered = sorted(scores, key=lambda score: (-score[0], -score[1], score[2]))
    return {number: score for score, _, number in ordered}


def held_out_results(directory: SweepDirectory) -> dict[int, dict[str, Any]]:
    """Return the held-out results of the complete trials, by number."""
    results = {}
    for number in directory.trial_numbers():
        folder = directory.trial(number)
        state, result = folder.read_state(), folder.read_result()
        if state is not None and state.state == "complete" and result is not None:
            results[number] = result
    return results


def chosen(ranked: list[int], top: int) -> list[int]:
    """Return the trials to certify on test: the `top` first of those ranked, and trial 0."""
    first = ranked[:top]
    return [*first, REFERENCE] if REFERENCE in ranked[top:] else first


def sweep_metric(directory: SweepDirectory) -> Metric:
    """Return the metric that the sweep's file ranks by."""
    by = directory.read_record().sweep.leaderboard.by
    if by == AVERAGE_RADIUS:
        return Metric()
    return metric_named(by, certified_radii(directory), source=f"{directory.path}: leaderboard.by")


def certified_radii(directory: SweepDirectory) -> tuple[float, ...]:
    """Return the radii at which a sweep reports certified accuracy.

    Raises:
        InputError: no trial has begun.
    """
    for number in directory.trial_numbers():
        record = directory.trial(number).read_record()
        if record is not None:
            return record.config.certification.radii
    raise InputError(f"{directory.path} has no trials yet.")
