"""Certificates that stay valid however an image's number of samples was decided."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaln, ndtri, xlog1py, xlogy

from decrop.errors import InputError
from decrop.smoothing.certificates import (
    SAMPLING_ERROR,
    Certificates,
    Floats,
    Integers,
    certificates_from_radii,
    check_failure_probability,
    check_same_shape,
    check_sigma,
    samples_of_class,
    samples_of_each_image,
    samples_per_image,
)

# Halving [0, 1] as often gets below the spacing of float64 at 1/2 and to 1e-19 near 0.
_BISECTIONS = 64
# Of the logarithms of beta functions and likelihoods: some last bits.
_ROUNDING = 1e-14


def anytime_lower_bound(
    successes: ArrayLike,
    trials: ArrayLike,
    failure_probability: float,
    *,
    a: float = 0.5,
    b: float = 0.5,
) -> Floats:
    """Bound a binomial proportion from below for every number of trials at once.

    With s successes and f failures after t trials, M_t(q) = B(a+s, b+f) / (B(a, b) q^s (1-q)^f) is
    a martingale of mean 1 where q is the true proportion p: a Beta(a, b) mixture of likelihood
    ratios (Robbins 1970, Annals of Mathematical Statistics 41(5); as a prior-posterior ratio,
    Waudby-Smith and Ramdas 2020, NeurIPS 33, proposition 2.1). By Ville's inequality (Ville 1939)
    it ever reaches 1 / failure_probability with probability at most `failure_probability`. Below
    s / t it decreases in q, so the bound is its only crossing of that level there, rounded down to
    the grid of the bisection and lowered as `lower_confidence_bound` is: the probability that the
    bound of any t exceeds p is at most `failure_probability`, whatever rule stops the trials, and
    the running maximum is valid too.

    Args:
        successes: integers in [0, trials].
        trials: integers >= 0; broadcast against `successes`.
        failure_probability: in (0, 1).
        a: first parameter of the mixture, > 0, fixed before the first trial.
        b: second parameter, likewise. 1/2 for both suits every proportion.

    Returns:
        float64 in [0, 1), in the broadcast shape; 0 where there is no success.
    """
    check_failure_probability(failure_probability)
    if not (0 < a < np.inf and 0 < b < np.inf):
        raise InputError(f"a and b must be positive and finite, but are {a} and {b}.")
    successes, trials = np.broadcast_arrays(np.asarray(successes), np.asarray(trials))
    if np.any((successes < 0) | (successes > trials)):
        raise InputError("successes must lie between 0 and the number of trials.")
    failures = trials - successes
    log_mixture = betaln(a + successes, b + failures) - betaln(a, b)
    low = np.zeros(successes.shape)
    high = successes / np.maximum(trials, 1)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        likelihood = xlogy(successes, middle) + xlog1py(failures, -middle)
        rounding = _ROUNDING * (np.abs(log_mixture) + np.abs(likelihood))
        excluded = log_mixture - likelihood - rounding >= -np.log(failure_probability)
        low, high = np.where(excluded, middle, low), np.where(excluded, high, middle)
    return np.maximum(np.asarray(low) - SAMPLING_ERROR, 0.0)


def anytime_certificates(
    selection_counts: Integers,
    estimation_counts: Integers,
    sigma: float,
    failure_probability: float,
) -> Certificates:
    """Certify as CERTIFY does, but with samples that may stop at any time for any reason.

    The class with most selection samples is the candidate; p_A is the `anytime_lower_bound` of its
    probability from the estimation samples alone. Where p_A > 1/2 the radius is sigma * Phi^-1(p_A)
    (Cohen, Rosenfeld and Kolter 2019, theorem 1), else the image abstains. For each image the
    probability that any certificate along its samples is wrong is at most `failure_probability`, so
    the samples may be looked at after each one, and stopped where the certificate pleases.

    Images with non-finite samples abstain, as in `cohen_certificates`.

    Args:
        selection_counts: int64 [B, K+1], each row with the same sum N0 >= 1.
        estimation_counts: int64 [B, K+1] of samples independent of the selection. Rows may have
            different sums; one without samples abstains.
        sigma: standard deviation of the noise, in [0,1] pixels, > 0.
        failure_probability: in (0, 1).

    Returns:
        Predictions int64 [B] and radii float64 [B], in [0,1] pixels.
    """
    check_sigma(sigma)
    samples_per_image(selection_counts)
    samples = samples_of_each_image(estimation_counts)
    check_same_shape(selection_counts, estimation_counts)
    candidate = selection_counts[:, :-1].argmax(axis=1)
    successes = samples_of_class(estimation_counts, candidate)
    bound = anytime_lower_bound(successes, samples, failure_probability)
    radius = sigma * ndtri(bound)
    return certificates_from_radii(candidate, radius, selection_counts, estimation_counts)
