"""Certificates of a smoothed classifier whose samples may be rejected."""

import numpy as np
from scipy.special import ndtri

from decrop.errors import InputError
from decrop.smoothing.certificates import (
    Certificates,
    Integers,
    certificates_from_radii,
    check_failure_probability,
    check_same_shape,
    check_sigma,
    leading_classes,
    lower_confidence_bound,
    samples_of_class,
    samples_per_image,
)


def rejection_certificates(
    selection_counts: Integers,
    estimation_counts: Integers,
    sigma: float,
    failure_probability: float,
) -> Certificates:
    """Certify denoised smoothing with sample rejection.

    A sample may be rejected, which counts as class R; the smoothed classifier returns the most
    probable of the K classes, never R. The class with most selection samples is the candidate. The
    estimation samples alone give p_A and p_A+R, lower bounds of the probabilities of the candidate
    and of the candidate or R, each at half of `failure_probability`. No other class is more
    probable than 1 - p_A+R, so the radius is sigma / 2 * (Phi^-1(p_A) + Phi^-1(p_A+R))
    (Sheikholeslami et al., Denoised Smoothing with Sample Rejection for Robustifying Pretrained
    Classifiers, 2022, theorem 3.1), and the image abstains unless p_A + p_A+R > 1, which is the
    paper's p_A > (1 - p_R) / 2. By a union bound a certificate is wrong with probability at most
    `failure_probability`.

    Images with non-finite samples abstain, as in `cohen_certificates`.

    Args:
        selection_counts: int64 [B, K+2]: samples of each of K >= 2 classes, of R, and those with
            logits that are not finite. Each row has the same sum N0 >= 1.
        estimation_counts: int64 [B, K+2], independent of the selection; rows sum to N >= 1.
        sigma: standard deviation of the noise, in [0,1] pixels, > 0.
        failure_probability: in (0, 1).

    Returns:
        Predictions int64 [B] in 0..K-1 or `ABSTAIN`, and radii float64 [B], in [0,1] pixels.
    """
    check_sigma(sigma)
    check_failure_probability(failure_probability)
    samples_per_image(selection_counts)
    samples = samples_per_image(estimation_counts)
    check_same_shape(selection_counts, estimation_counts)
    _check_columns(selection_counts)
    candidate = selection_counts[:, :-2].argmax(axis=1)
    accepted = samples_of_class(estimation_counts, candidate)
    accepted_or_rejected = accepted + estimation_counts[:, -2]
    p_a = lower_confidence_bound(accepted, samples, failure_probability / 2)
    p_a_or_r = lower_confidence_bound(accepted_or_rejected, samples, failure_probability / 2)
    # Positive exactly where the sum of both exceeds 1.
    radius = sigma / 2 * (ndtri(p_a) + ndtri(p_a_or_r))
    return certificates_from_radii(candidate, radius, selection_counts, estimation_counts)


def rejection_predictions(counts: Integers, failure_probability: float) -> Integers:
    """Predict with PREDICT where samples may be rejected (Sheikholeslami et al. 2022, algorithm 1).

    The two classes with most samples, R aside, are compared by the exact two-sided binomial test of
    PREDICT. Given how many samples were rejected, the others are of a multinomial over the K
    classes with probabilities in proportion to theirs, so the same class is the most probable, and
    for each such number the test names another one with probability at most `failure_probability`
    (Hung and Fithian 2019, Annals of Statistics 47(2)); hence also on average over it.

    Images with non-finite samples abstain, as do those without a sample that was not rejected.

    Args:
        counts: int64 [B, K+2]: samples of each of K >= 2 classes, of R, and with non-finite logits;
            each row with the same sum >= 1.
        failure_probability: in (0, 1).

    Returns:
        int64 [B] in 0..K-1 or `ABSTAIN`.
    """
    samples_per_image(counts)
    _check_columns(counts)
    return leading_classes(np.delete(counts, -2, axis=1), failure_probability)


def _check_columns(counts: Integers) -> None:
    if counts.shape[1] < 4:
        raise InputError(
            f"counts must be [images, classes + 2] with at least two classes, the rejected and the "
            f"non-finite samples, but have shape {counts.shape}."
        )
