"""Two denoisers on the same images: paired tests and intervals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from decrop.errors import InputError
from decrop.smoothing.certificates import binomial_probabilities

Successes = NDArray[np.bool_] | NDArray[np.int64]


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


def paired_p_values(first: Successes, second: Successes) -> NDArray[np.float64]:
    """Test at each radius whether two certified accuracies are equal, exactly and two-sided.

    The randomisation test for paired data (Pitman 1937, Supplement to the Journal of the Royal
    Statistical Society 4(1)): where the two are exchangeable on each image, the sign of an image's
    difference is a fair coin, which gives the sum of all differences its distribution. For single
    runs this is the exact test of McNemar. It speaks of these denoisers on other images, not of
    denoisers from other seeds.

    Args:
        first: bool [R, B] from `certified_correct`, or integers [R, B]: in how many of several runs
            an image is certified.
        second: the same of as many runs, on the same images.

    Returns:
        float64 [R]; 1 where no image tells the two apart.
    """
    return np.array([_sign_flip_p_value(row) for row in _differences(first, second)])


def holm_adjusted(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjust p-values [n] for being n tests (Holm 1979, Scandinavian J. of Statistics 6(2))."""
    # Importing it takes longer than all else here, and a sweep needs it at its end alone.
    from statsmodels.stats.multitest import multipletests

    values = np.asarray(p_values, dtype=np.float64)
    if not len(values):
        return values
    return np.asarray(multipletests(values, method="holm")[1], dtype=np.float64)


def paired_difference(
    first: Successes, second: Successes, level: float = 0.95, *, runs: int = 1
) -> PairedDifference:
    """Return the difference of certified accuracies with an interval of Bonett and Price.

    The interval is the adjusted Wald interval of Bonett and Price (2012), "Adjusted Wald confidence
    interval for a difference of binomial proportions based on paired data", Journal of Educational
    and Behavioral Statistics 37(4). With n images, of which a are certified correct by the first
    only and b by the second only, p = (a + 1) / (n + 2) and q = (b + 1) / (n + 2), it is
    p - q +- z sqrt((p + q - (p - q)^2) / (n + 2)): the Wald interval of the mean difference of an
    image, with one image of difference 1 and one of difference -1 added. The same is done with
    the differences of images that are means over several runs. Its coverage is approximately
    `level`, over images.

    Args:
        first: as in `paired_p_values`.
        second: as in `paired_p_values`.
        level: coverage, in (0, 1).
        runs: of which `first` and `second` count the successes.
    """
    differences = _differences(first, second) / runs
    images = differences.shape[1]
    total = differences.sum(axis=1)
    mean = total / (images + 2)
    variance = (np.square(differences).sum(axis=1) + 2) / (images + 2) - mean**2
    half_width = ndtri((1 + level) / 2) * np.sqrt(variance / (images + 2))
    return PairedDifference(
        points=100 * total / images,
        low=100 * np.maximum(mean - half_width, -1.0),
        high=100 * np.minimum(mean + half_width, 1.0),
    )


def _sign_flip_p_value(differences: NDArray[np.int64]) -> float:
    """Return how likely random signs make the sum of `differences` [B] as far from 0 as it is."""
    likelihood = np.ones(1)
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    for size, count in zip(sizes, counts, strict=True):
        # Of `count` signs k are positive: the sum is size * (2 k - count).
        of_size = np.zeros(2 * size * count + 1)
        of_size[:: 2 * size] = binomial_probabilities(np.arange(count + 1), count, 0.5)
        likelihood = np.convolve(likelihood, of_size)
    sums = np.arange(len(likelihood)) - len(likelihood) // 2
    return min(1.0, float(likelihood[np.abs(sums) >= abs(differences.sum())].sum()))


def _differences(first: Successes, second: Successes) -> NDArray[np.int64]:
    if first.shape != second.shape or first.ndim != 2 or not first.shape[1]:
        raise InputError(
            f"both must be [radii, images] of the same images, but have shapes {first.shape} and "
            f"{second.shape}."
        )
    return first.astype(np.int64) - second.astype(np.int64)
