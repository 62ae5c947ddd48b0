"""Curves of certificates over radius and over probability, as figures and pages draw them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from decrop.evaluation.accuracy import certified_correct, exact_interval
from decrop.evaluation.table import CertificateTable

_LEAST_END = 0.25
_BEYOND = 1.05


@dataclass(frozen=True, eq=False)
class AccuracyCurve:
    """Certified accuracy by radius: each value holds down to the radius before it.

    Attributes:
        radii: float64 [R], increasing, in [0,1] pixels.
        share: float64 [R], of images that are certified correct with at least the radius.
        low: of its exact 95 % interval, float64 [R].
        high: of its exact 95 % interval, float64 [R].
    """

    radii: NDArray[np.float64]
    share: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def accuracy_curve(table: CertificateTable, radii: NDArray[np.float64]) -> AccuracyCurve:
    """Return certified accuracy at increasing radii."""
    certified = certified_correct(table.predict, table.radius, table.label, radii)
    images = certified.shape[1]
    successes = certified.sum(axis=1)
    low, high = exact_interval(successes, images)
    return AccuracyCurve(radii, successes / images, low, high)


def steps_of(radius: ArrayLike, end: float) -> NDArray[np.float64]:
    """Return the radii at which certified accuracy may change, with 0 and the end."""
    within = np.asarray(radius, dtype=np.float64)
    within = within[within < end]
    steps: NDArray[np.float64] = np.unique(np.concatenate([[0.0], within, [end]]))
    return steps


def end_of_curves(tables: Iterable[CertificateTable]) -> float:
    """Return the radius, in [0,1] pixels, at which the curves of tables end: all are 0 there."""
    return max(_LEAST_END, *(_BEYOND * float(table.radius.max()) for table in tables))


def probability_curve(
    table: CertificateTable,
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return probabilities p in [0.5, 1], and the share of images that are correct with p_A >= p.

    Each share holds up to the next p; p_A stands for its lower bound. None where bounds are not
    known to be of one sigma.
    """
    bounds = table.probability
    if bounds is None:
        return None
    correct = np.sort(bounds[table.correct])
    counts = np.concatenate([np.arange(len(correct), -1, -1), [0]])
    return np.concatenate([[0.5], correct, [1.0]]), counts / len(bounds)
