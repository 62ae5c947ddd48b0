"""T-CERTIFY: certificates from bounds on the top class and on the runner-up."""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import numpy as np
from scipy.special import bdtr, ndtri

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
    lower_confidence_bound,
    rounded_down,
    samples_of_class,
    samples_per_image,
)

Variant = Literal["published", "preselected", "grid"]

# Shares of the failure probability that p_A may take, in tenths. All of it comes first, so that
# ties are decided for CERTIFY.
_TENTHS = range(10, 0, -1)
# Over the whole grid p_A's bounds fail with at most 1.0 and p_B's with at most 0.9 of the level.
_GRID_FAILURES = 1.9
# Leaves less than 1e-6 of a bracket that is itself about the width of a union bound.
_BISECTIONS = 20

# From samples of the other classes [B, K-1], the number of samples and a failure probability to a
# lower bound [B] of 1 - p_B.
_RunnerUpBound = Callable[[Integers, int, float], Floats]


def two_sided_certificates(
    selection_counts: Integers,
    estimation_counts: Integers,
    sigma: float,
    failure_probability: float,
    *,
    variant: Variant,
) -> Certificates:
    """Certify with T-CERTIFY (Feng et al. 2020, AAAI 34(04), algorithm 2 and equation 14).

    The class with most selection samples is the candidate. The estimation samples alone give p_A, a
    lower bound of its probability at level alpha', and p_B, an upper bound of the probability of
    every other class at level alpha - alpha', where alpha is `failure_probability`. p_B is at most
    1 - p_A. Where p_A > 1/2 the radius is sigma / 2 * (Phi^-1(p_A) - Phi^-1(p_B)), which Cohen,
    Rosenfeld and Kolter 2019, theorem 1, prove from the bounds; else the image abstains. alpha' is
    one of 0.1, 0.2, ..., 1.0 times alpha, and 1.0 gives the radius of CERTIFY.

    The variants differ in alpha' and in p_B:

    - "published": the largest radius over the grid, as theorem 1 of Feng et al. has it, and p_B
      from the sum over the other classes. Their proof rests on proposition 1, where alpha' is fixed
      before the samples, so it does not cover the maximum.
    - "preselected": for each image the alpha' of the largest radius, whether p_A > 1/2 or not, if
      the estimation counts were the selection counts scaled up. It depends on the selection samples
      alone, so given them it is fixed, and the union bound of proposition 1 holds: a certificate is
      wrong with probability at most alpha.
    - "grid": the largest radius over the grid with alpha / 1.9 in place of alpha. The bounds of one
      side are nested in their level, so those of p_A all hold unless the one at 1.0 fails, those of
      p_B unless the one at 0.9 fails: the failures sum to alpha, whichever radius is taken.

    "preselected" and "grid" bound p_B by the one-sided Clopper-Pearson bound U of the largest count
    of the other classes. Which class has it depends on the samples, but U grows with the count:
    with c the other class of largest probability, which no sample changes, U(largest) >= U(count of
    c), and U(count of c) is at least its probability except with the failure probability. So no
    union over classes is needed, and the sum of "published", whose largest term is this class's, is
    never tighter.

    Images with non-finite samples abstain, as in `cohen_certificates`.

    Args:
        selection_counts: int64 [B, K+1], each row with the same sum N0 >= 1.
        estimation_counts: int64 [B, K+1] of samples independent of the selection, rows sum to N >=
            1.
        sigma: standard deviation of the noise, in [0,1] pixels, > 0.
        failure_probability: in (0, 1).
        variant: "published", "preselected" or "grid".

    Returns:
        Predictions int64 [B] and radii float64 [B], in [0,1] pixels.
    """
    check_sigma(sigma)
    check_failure_probability(failure_probability)
    selection_samples = samples_per_image(selection_counts)
    samples = samples_per_image(estimation_counts)
    check_same_shape(selection_counts, estimation_counts)
    candidate = selection_counts[:, :-1].argmax(axis=1)

    def quantiles(counts: Integers, level: float, bound: _RunnerUpBound) -> tuple[Floats, Floats]:
        top = samples_of_class(counts, candidate)
        return _grid_quantiles(
            top, _samples_of_other_classes(counts, candidate), samples, level, bound
        )

    match variant:
        case "published":
            radii = _grid_radii(*quantiles(estimation_counts, failure_probability, _summed_bound))
            radius = sigma * radii.max(axis=0)
        case "preselected":
            extrapolated = selection_counts * samples // selection_samples
            first, second = quantiles(extrapolated, failure_probability, _largest_count_bound)
            chosen = (first + second).argmax(axis=0)[None]
            radii = _grid_radii(
                *quantiles(estimation_counts, failure_probability, _largest_count_bound)
            )
            radius = sigma * np.take_along_axis(radii, chosen, axis=0)[0]
        case "grid":
            level = failure_probability / _GRID_FAILURES
            radii = _grid_radii(*quantiles(estimation_counts, level, _largest_count_bound))
            radius = sigma * radii.max(axis=0)
        case _:
            raise InputError(
                f"variant must be one of {', '.join(get_args(Variant))}, but is {variant}."
            )
    return certificates_from_radii(candidate, radius, selection_counts, estimation_counts)


def _samples_of_other_classes(counts: Integers, candidate: Integers) -> Integers:
    classes = counts.shape[1] - 1
    other = np.arange(classes) != candidate[:, None]
    return np.asarray(counts[:, :-1][other].reshape(-1, classes - 1))


def _grid_quantiles(
    top: Integers,
    others: Integers,
    samples: int,
    failure_probability: float,
    runner_up_bound: _RunnerUpBound,
) -> tuple[Floats, Floats]:
    """Phi^-1(p_A) and -Phi^-1(p_B), float64 [10, B] each, for each share of `_TENTHS`."""
    first, second = [], []
    for tenths in _TENTHS:
        level = failure_probability * (tenths / 10)
        first.append(ndtri(lower_confidence_bound(top, samples, level)))
        if tenths == 10:
            second.append(first[-1])
        else:
            level = failure_probability * ((10 - tenths) / 10)
            runner_up = ndtri(runner_up_bound(others, samples, level))
            second.append(np.maximum(first[-1], runner_up))
    return np.stack(first), np.stack(second)


def _grid_radii(first: Floats, second: Floats) -> Floats:
    """Radii in units of sigma, float64 [10, B], of the quantiles; 0 where p_A <= 1/2."""
    return np.where(first > 0, (first + second) / 2, 0.0)


def _largest_count_bound(others: Integers, samples: int, failure_probability: float) -> Floats:
    # 1 minus the upper bound of a class is the lower bound of all the rest.
    return lower_confidence_bound(samples - others.max(axis=1), samples, failure_probability)


def _summed_bound(others: Integers, samples: int, failure_probability: float) -> Floats:
    """Solve sum_j P(Bin(N, p) <= N_j) = failure_probability for 1 - p, rounded down.

    The sum lies between its largest term and that term times the number of classes, which brackets
    the solution between two Clopper-Pearson bounds.
    """
    classes = others.shape[1]
    low = _largest_count_bound(others, samples, failure_probability / classes)
    high = _largest_count_bound(others, samples, failure_probability)
    for _ in range(_BISECTIONS if classes > 1 else 0):
        middle = (low + high) / 2
        tails = bdtr(others.astype(np.float64), samples, 1 - middle[:, None]).sum(axis=1)
        holds = tails <= rounded_down(failure_probability)
        low, high = np.where(holds, middle, low), np.where(holds, high, middle)
    return np.maximum(low - SAMPLING_ERROR, 0.0)


published_certificates = partial(two_sided_certificates, variant="published")
preselected_certificates = partial(two_sided_certificates, variant="preselected")
grid_certificates = partial(two_sided_certificates, variant="grid")
