"""Certificates of a smoothed classifier whose samples may be rejected."""

from scipy.stats import norm

from decrop.errors import InputError
from decrop.smoothing.certificates import (
    Certificates,
    Integers,
    certificates_from_radii,
    check_failure_probability,
    check_same_shape,
    check_sigma,
    draws_of_class,
    draws_per_image,
    lower_confidence_bound,
)


def rejection_certificates(
    selection_counts: Integers,
    estimation_counts: Integers,
    sigma: float,
    failure_probability: float,
) -> Certificates:
    """Certify denoised smoothing with sample rejection.

    A draw may be rejected, which counts as class R; the smoothed classifier returns the most
    probable of the K classes, never R. The class with most selection draws is the candidate. The
    estimation draws alone give p_A and p_A+R, lower bounds of the probabilities of the candidate
    and of the candidate or R, each at half of `failure_probability`. No other class is more
    probable than 1 - p_A+R, so the radius is sigma / 2 * (Phi^-1(p_A) + Phi^-1(p_A+R))
    (Sheikholeslami et al., Denoised Smoothing with Sample Rejection for Robustifying Pretrained
    Classifiers, 2022, theorem 3.1), and the image abstains unless p_A + p_A+R > 1, which is the
    paper's p_A > (1 - p_R) / 2. By a union bound a certificate is wrong with probability at most
    `failure_probability`.

    Images with non-finite draws abstain, as in `cohen_certificates`.

    Args:
        selection_counts: int64 [B, K+2]: draws of each of K >= 2 classes, of R, and with non-finite
            logits. Each row has the same sum N0 >= 1.
        estimation_counts: int64 [B, K+2] of draws independent of the selection, rows sum to N >= 1.
        sigma: standard deviation of the noise, in [0,1] pixels, > 0.
        failure_probability: in (0, 1).

    Returns:
        Predictions int64 [B] in 0..K-1 or `ABSTAIN`, and radii float64 [B], in [0,1] pixels.

    Raises:
        InputError: a value is out of its range or the counts do not fit together.
    """
    check_sigma(sigma)
    check_failure_probability(failure_probability)
    draws_per_image(selection_counts)
    draws = draws_per_image(estimation_counts)
    check_same_shape(selection_counts, estimation_counts)
    if selection_counts.shape[1] < 4:
        raise InputError(
            f"counts must be [images, classes + 2] with at least two classes, the rejected and the "
            f"non-finite draws, but have shape {selection_counts.shape}."
        )
    candidate = selection_counts[:, :-2].argmax(axis=1)
    accepted = draws_of_class(estimation_counts, candidate)
    accepted_or_rejected = accepted + estimation_counts[:, -2]
    p_a = lower_confidence_bound(accepted, draws, failure_probability / 2)
    p_a_or_r = lower_confidence_bound(accepted_or_rejected, draws, failure_probability / 2)
    # Positive exactly where the sum of both exceeds 1.
    radius = sigma / 2 * (norm.ppf(p_a) + norm.ppf(p_a_or_r))
    return certificates_from_radii(candidate, radius, selection_counts, estimation_counts)
