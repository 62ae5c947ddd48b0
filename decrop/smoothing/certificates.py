"""Certificates from class counts under noise: statistics only, no sampling.

Counts are int64 [B, K+1]: for B images, how many noise samples fell in each of K classes, and in
the last column how many had logits that are not finite.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaincinv, ndtri

from decrop.errors import InputError

ABSTAIN = -1

# What a probability in the statistics may be off by: samples differ from the noise of the theorem
# by as much at most (`decrop.smoothing.noise.GridNoise.check`), and quantiles are rounded by less.
SAMPLING_ERROR = 1e-9
# Of a level, for the rounding of the distribution functions.
_ROUNDING = 1e-9

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Certificates:
    """What the smoothed classifier certifiably answers.

    Attributes:
        prediction: int64 [B], the class, or `ABSTAIN`.
        radius: float64 [B], L2 radius in [0,1] pixels; 0 where it abstains.
    """

    prediction: Integers
    radius: Floats


def lower_confidence_bound(
    successes: ArrayLike, trials: ArrayLike, failure_probability: float
) -> Floats:
    """Bound a binomial proportion from below: one-sided Clopper-Pearson.

    The bound exceeds the true proportion with probability at most `failure_probability`, whatever
    the proportion and the number of trials (Clopper and Pearson 1934, Biometrika 26(4)). It is
    taken at a level 1e-9 smaller and is then lowered by `SAMPLING_ERROR`, so that it also holds as
    floating point computes it, for the exact noise in place of the sampled one.

    Args:
        successes: integers in [0, trials].
        trials: integers >= 1; broadcast against `successes`.
        failure_probability: in (0, 1).

    Returns:
        float64 in [0, 1), in the broadcast shape; 0 where there is no success.
    """
    check_failure_probability(failure_probability)
    successes, trials = np.broadcast_arrays(np.asarray(successes), np.asarray(trials))
    if np.any(trials < 1):
        raise InputError(f"trials must be at least 1, but one is {trials.min()}.")
    if np.any((successes < 0) | (successes > trials)):
        raise InputError("successes must lie between 0 and the number of trials.")
    some = np.maximum(successes, 1)
    bound = betaincinv(some, trials - some + 1, rounded_down(failure_probability))
    bound = np.where(successes > 0, bound, 0.0)
    return np.maximum(bound - SAMPLING_ERROR, 0.0)


def binomial_probabilities(counts: Integers, trials: int, probability: float) -> Floats:
    """Return the probability of each number of successes."""
    # Importing it takes longer than all else here, and most processes of a sweep never need it.
    from scipy.stats import binom

    return np.asarray(binom.pmf(counts, trials, probability))


def cohen_certificates(
    selection_counts: Integers,
    estimation_counts: Integers,
    sigma: float,
    failure_probability: float,
) -> Certificates:
    """Certify with CERTIFY (Cohen, Rosenfeld and Kolter 2019, section 3.2.2 and proposition 2).

    The class with most selection samples is the candidate; p_A, the lower confidence bound of its
    probability, comes from the estimation samples alone. Where p_A > 1/2 the radius is
    sigma * Phi^-1(p_A), else the image abstains. For each image the probability that a certificate
    is given and wrong is at most `failure_probability`.

    Samples with non-finite logits count as an outcome of their own that is never the candidate, and
    an image with any such sample abstains. Abstaining is never wrong, so turning some certificates
    into abstentions, by whatever rule, cannot raise the probability of a wrong one.

    Args:
        selection_counts: int64 [B, K+1], each row with the same sum N0 >= 1.
        estimation_counts: int64 [B, K+1] of samples independent of the selection, rows sum to N >=
            1.
        sigma: standard deviation of the noise, in [0,1] pixels, > 0.
        failure_probability: in (0, 1).
    """
    check_sigma(sigma)
    samples_per_image(selection_counts)
    trials = samples_per_image(estimation_counts)
    check_same_shape(selection_counts, estimation_counts)
    candidate = selection_counts[:, :-1].argmax(axis=1)
    successes = samples_of_class(estimation_counts, candidate)
    radius = sigma * ndtri(lower_confidence_bound(successes, trials, failure_probability))
    return certificates_from_radii(candidate, radius, selection_counts, estimation_counts)


def certificates_from_radii(
    candidate: Integers, radius: Floats, selection_counts: Integers, estimation_counts: Integers
) -> Certificates:
    """Certify the candidates where the radius is positive and no sample has non-finite logits.

    Args:
        candidate: int64 [B], classes.
        radius: float64 [B], L2 radii in [0,1] pixels; 0 or less where there is no certificate.
        selection_counts: int64 [B, columns], last the samples with non-finite logits.
        estimation_counts: int64 [B, columns], likewise.
    """
    radius = radii_rounded_down(radius)
    certified = (radius > 0) & (selection_counts[:, -1] == 0) & (estimation_counts[:, -1] == 0)
    return Certificates(
        prediction=np.where(certified, candidate, ABSTAIN),
        radius=np.where(certified, radius, 0.0),
    )


def rounded_down(failure_probability: float) -> float:
    """Return a level that leaves room for the rounding of a distribution function."""
    return failure_probability * (1 - _ROUNDING)


def radii_rounded_down(radius: Floats) -> Floats:
    """Return radii that the rounding of the normal quantile, a few last bits, cannot raise."""
    lowered: Floats = radius - 4 * np.spacing(np.abs(radius))
    return lowered


def samples_of_class(counts: Integers, classes: Integers) -> Integers:
    """Count each image's samples of its own class: int64 [B] from int64 [B, columns] and [B]."""
    return np.take_along_axis(counts, classes[:, None], axis=1)[:, 0]


def smoothed_predictions(counts: Integers, failure_probability: float) -> Integers:
    """Predict with PREDICT (Cohen, Rosenfeld and Kolter 2019, section 3.2.1 and proposition 1).

    The class with most samples is returned where the exact two-sided binomial test rejects that it
    and the runner-up are equally likely, else `ABSTAIN`. The probability that a class is returned
    that is not the smoothed classifier's is at most `failure_probability` (Hung and Fithian 2019,
    Annals of Statistics 47(2)). Images with non-finite samples abstain, as in `cohen_certificates`.

    Args:
        counts: int64 [B, K+1] with K >= 2, each row with the same sum >= 1.
        failure_probability: in (0, 1).

    Returns:
        int64 [B].
    """
    samples_per_image(counts)
    return leading_classes(counts, failure_probability)


def leading_classes(counts: Integers, failure_probability: float) -> Integers:
    """Predict as `smoothed_predictions`, from rows of counts that may have different sums."""
    check_failure_probability(failure_probability)
    runner_up, most = np.sort(counts[:, :-1], axis=1)[:, -2:].T
    # The binomial at p = 1/2 is symmetric, so both tails weigh the same. P(Bin(n, p) >= k) is the
    # incomplete beta function I_p(k, n - k + 1).
    tail = betainc(np.maximum(most, 1), runner_up + 1, 0.5 + SAMPLING_ERROR)
    p_value = np.minimum(1.0, 2 * tail)
    decided = (p_value <= rounded_down(failure_probability)) & (counts[:, -1] == 0)
    return np.where(decided, counts[:, :-1].argmax(axis=1), ABSTAIN)


def check_sigma(sigma: float) -> None:
    """Raise InputError unless `sigma` is positive and finite."""
    if not 0 < sigma < np.inf:
        raise InputError(f"sigma must be positive and finite, but is {sigma}.")


def check_failure_probability(failure_probability: float) -> None:
    """Raise InputError unless `failure_probability` is in (0, 1)."""
    if not 0 < failure_probability < 1:
        raise InputError(
            f"failure_probability must lie between 0 and 1, but is {failure_probability}."
        )


def check_same_shape(selection_counts: Integers, estimation_counts: Integers) -> None:
    """Raise InputError unless both counts have the same shape."""
    if selection_counts.shape != estimation_counts.shape:
        raise InputError(
            f"selection counts {selection_counts.shape} and estimation counts "
            f"{estimation_counts.shape} must have the same shape."
        )


def samples_of_each_image(counts: Integers) -> Integers:
    """Sum the rows of counts, int64 [B], which may differ."""
    if counts.ndim != 2 or counts.shape[0] < 1 or counts.shape[1] < 3:
        raise InputError(
            f"counts must be [images, classes + 1] with at least one image and two classes, "
            f"but have shape {counts.shape}."
        )
    if counts.min() < 0:
        raise InputError(f"counts must not be negative, but one is {counts.min()}.")
    return np.asarray(counts.sum(axis=1))


def samples_per_image(counts: Integers) -> int:
    """Return the number of samples that all images have in common, at least 1."""
    totals = samples_of_each_image(counts)
    if totals.min() != totals.max():
        raise InputError(
            f"every image needs the same number of samples, but they have from {totals.min()} "
            f"to {totals.max()}."
        )
    if totals[0] < 1:
        raise InputError("there are no samples; at least one sample an image is needed.")
    return int(totals[0])
