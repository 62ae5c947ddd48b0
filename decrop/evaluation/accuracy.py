"""Certified accuracy and average certified radius."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from decrop.errors import InputError
from decrop.smoothing.certificates import ABSTAIN


def certified_correct(
    prediction: ArrayLike, radius: ArrayLike, labels: ArrayLike, radii: ArrayLike
) -> NDArray[np.bool_]:
    """Tell which images are certified correct at each radius: right and of at least that radius.

    Args:
        prediction: integers [B], -1 for abstention, which is never correct.
        radius: certified L2 radii [B] in [0,1] pixels.
        labels: true classes [B], >= 0.
        radii: [R], >= 0.

    Returns:
        bool [R, B].
    """
    correct = _correct(prediction, radius, labels)
    return correct & (np.asarray(radius) >= np.asarray(radii, dtype=np.float64)[:, None])


def certified_accuracy(
    prediction: ArrayLike, radius: ArrayLike, labels: ArrayLike, radii: ArrayLike
) -> NDArray[np.float64]:
    """Return the share of all images certified correct at each radius (Cohen et al. 2019, sec. 4).

    Abstentions count against. Arguments and errors as in `certified_correct`.

    Returns:
        float64 [R] in [0, 1].
    """
    share: NDArray[np.float64] = certified_correct(prediction, radius, labels, radii).mean(axis=1)
    return share


def average_certified_radius(prediction: ArrayLike, radius: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean over all images of the radius where correct, else 0, in [0,1] pixels.

    It is the area under the whole curve of certified accuracy over the radius.

    Source: Zhai et al. 2020 (MACER). Arguments and errors as in `certified_correct`.
    """
    return float(np.where(_correct(prediction, radius, labels), radius, 0.0).mean())


def radius_error(prediction: ArrayLike, radius: ArrayLike, labels: ArrayLike) -> float:
    """Return the standard error of the average certified radius over images, in [0,1] pixels.

    The deviation over images, divided by the square root of their number; 0 for one image.
    Arguments and errors as in `certified_correct`.
    """
    radii = np.where(_correct(prediction, radius, labels), radius, 0.0)
    return float(radii.std(ddof=1) / np.sqrt(len(radii))) if len(radii) > 1 else 0.0


def area_under_curve(
    prediction: ArrayLike, radius: ArrayLike, labels: ArrayLike, largest: float
) -> float:
    """Return the area under the curve of certified accuracy from radius 0 to `largest`, >= 0.

    The average certified radius of which each image adds `largest` at most, so that no image that
    is surer than asked for makes up for others, as without a bound (Sun et al., Average Certified
    Radius is a Poor Metric for Randomized Smoothing, arXiv 2410.06895). In [0,1] pixels, at most
    `largest`. Other arguments and errors as in `certified_correct`.
    """
    return average_certified_radius(prediction, np.minimum(radius, largest), labels)


def abstention_rate(prediction: ArrayLike) -> float:
    """Return the share of predictions [B] that are abstentions (-1)."""
    return float((np.asarray(prediction) == ABSTAIN).mean())


def exact_interval(
    successes: ArrayLike, trials: ArrayLike, level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the Clopper-Pearson interval of a binomial proportion (Biometrika 26(4), 1934).

    Args:
        successes: integers in [0, trials].
        trials: integers >= 1; broadcast against `successes`.
        level: least coverage, in (0, 1).

    Returns:
        Lower and upper ends, float64 in the broadcast shape.
    """
    # Importing it takes longer than all else here, and most processes of a sweep never need it.
    from statsmodels.stats.proportion import proportion_confint

    counts, totals = np.broadcast_arrays(np.asarray(successes), np.asarray(trials))
    low, high = proportion_confint(counts, totals, 1 - level, method="beta")
    return np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)


def _correct(prediction: ArrayLike, radius: ArrayLike, labels: ArrayLike) -> NDArray[np.bool_]:
    predicted, radius_, true = np.asarray(prediction), np.asarray(radius), np.asarray(labels)
    if not predicted.shape == radius_.shape == true.shape or predicted.ndim != 1:
        raise InputError(
            f"predictions {predicted.shape}, radii {radius_.shape} and labels {true.shape} must "
            "have one entry an image."
        )
    if not len(predicted):
        raise InputError("there are no images to take an accuracy of.")
    correct: NDArray[np.bool_] = (predicted == true) & (predicted != ABSTAIN)
    return correct
