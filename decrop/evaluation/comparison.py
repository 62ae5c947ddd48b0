"""Two denoisers on the same images: paired tests and intervals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from decrop.errors import InputError


@dataclass(frozen=True, eq=False)
class PairedDifference:
    """Certified accuracy of the first less that of the second, in percentage points, at R radii.

    Attributes:
        points: float64 [R] in [-100, 100].
        low: float64 [R], lower end of the interval.
        high: float64 [R], upper end.
    """

    points: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def mcnemar_p_values(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Test at each radius whether two certified accuracies are equal: exact McNemar, two-sided.

    Args:
        first: bool [R, B], from `certified_correct`.
        second: bool [R, B], of the same images.

    Returns:
        float64 [R]; 1 where no image tells the two apart.

    Raises:
        InputError: the shapes differ.
    """
    only_first, only_second = _discordant(first, second)
    return np.array(
        [
            mcnemar([[0, more], [fewer, 0]], exact=True).pvalue
            for more, fewer in zip(only_first, only_second, strict=True)
        ],
        dtype=np.float64,
    )


def holm_adjusted(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjust p-values [n] for being n tests (Holm 1979, Scandinavian J. of Statistics 6(2))."""
    values = np.asarray(p_values, dtype=np.float64)
    if not len(values):
        return values
    return np.asarray(multipletests(values, method="holm")[1], dtype=np.float64)


def paired_difference(
    first: NDArray[np.bool_], second: NDArray[np.bool_], level: float = 0.95
) -> PairedDifference:
    """Return the difference of certified accuracies with an interval of Bonett and Price.

    The interval is the adjusted Wald interval of Bonett and Price (2012), "Adjusted Wald confidence
    interval for a difference of binomial proportions based on paired data", Journal of Educational
    and Behavioral Statistics 37(4). With n images, of which a are certified correct by the first
    only and b by the second only, p = (a + 1) / (n + 2) and q = (b + 1) / (n + 2), it is
    p - q +- z sqrt((p + q - (p - q)^2) / (n + 2)). Its coverage is approximately `level`.

    Args:
        first: bool [R, B], from `certified_correct`.
        second: bool [R, B], of the same images.
        level: coverage, in (0, 1).

    Raises:
        InputError: the shapes differ.
    """
    only_first, only_second = _discordant(first, second)
    images = first.shape[1]
    p, q = (only_first + 1) / (images + 2), (only_second + 1) / (images + 2)
    half_width = norm.ppf((1 + level) / 2) * np.sqrt((p + q - (p - q) ** 2) / (images + 2))
    return PairedDifference(
        points=100 * (only_first - only_second) / images,
        low=100 * np.maximum(p - q - half_width, -1.0),
        high=100 * np.minimum(p - q + half_width, 1.0),
    )


def _discordant(
    first: NDArray[np.bool_], second: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if first.shape != second.shape or first.ndim != 2 or not first.shape[1]:
        raise InputError(
            f"both must be [radii, images] of the same images, but have shapes {first.shape} and "
            f"{second.shape}."
        )
    return (first & ~second).sum(axis=1), (second & ~first).sum(axis=1)
