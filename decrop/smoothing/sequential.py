"""Group-sequential tests of certified radii: exact, and valid at every look.

A radius r is certified where the probability p of the candidate class exceeds Phi(r / sigma)
(Cohen, Rosenfeld and Kolter 2019, theorem 1). Each radius of a grid has a test of its own, that p
is not above that value, which looks at the counts at numbers of samples fixed in advance.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import ndtr

from decrop.errors import InputError
from decrop.smoothing.certificates import (
    SAMPLING_ERROR,
    Floats,
    Integers,
    binomial_probabilities,
    check_failure_probability,
    check_sigma,
)

# Looks grow by a twentieth: more of them gain little, fewer overshoot.
_GROWTH = 0.05
# Share of the failure probability that the first look at which a test can succeed may spend. Of
# Cohen et al.'s published radii the test with fewest samples, by backward induction, spends 0.28.
_FIRST_SHARE = 1 / 4
# Far above the rounding of the sums, far below any failure probability in use.
_ROUNDING = 1e-9
_NEGLIGIBLE = 1e-18
# Half of what settings allow, for corrections that divide it. At 1e-40 the level is exceeded.
_LEAST_FAILURE_PROBABILITY = 5e-13


@dataclass(frozen=True, eq=False)
class SequentialDesign:
    """The tests of all radii of a grid.

    Attributes:
        radii: float64 [R], increasing, in [0,1] pixels.
        others: float64 [R], probability of other classes of which each test is that it is less.
        looks: int64 [L], increasing numbers of samples at which the tests look.
        limits: int64 [R, L], most samples of other classes with which a test succeeds; -1 for
            never.
    """

    radii: Floats
    others: Floats
    looks: Integers
    limits: Integers


def look_schedule(max_samples: int, chunk_size: int) -> Integers:
    """Return the numbers of samples at which tests look, int64 [L].

    They are multiples of `chunk_size`, at most a twentieth apart once that is more than a chunk,
    and end with `max_samples` itself.
    """
    if max_samples < 1 or chunk_size < 1:
        raise InputError(
            "max_samples and chunk_size must be at least 1, but are "
            f"{max_samples} and {chunk_size}."
        )
    looks = [min(chunk_size, max_samples)]
    while looks[-1] < max_samples:
        chunks = max(1, int(_GROWTH * looks[-1] / chunk_size))
        looks.append(min(max_samples, looks[-1] + chunks * chunk_size))
    return np.array(looks, dtype=np.int64)


def sequential_design(
    radii: Floats, sigma: float, failure_probability: float, looks: Integers
) -> SequentialDesign:
    """Design the tests of a grid of radii.

    An image's certified radius is the largest whose test, and the tests of all smaller ones, have
    succeeded at some look. It is wrong only if the test of the smallest radius of the grid that is
    not truly certified has succeeded, which has a probability of at most `failure_probability`: the
    tests need no correction for their number (fixed-sequence testing: Maurer, Hothorn and Lehmacher
    1995; Westfall and Krishen 2001). Any rule may decide at which look an image stops.

    Args:
        radii: float64 [R], increasing, >= 0, in [0,1] pixels.
        sigma: standard deviation of the noise, in [0,1] pixels, > 0.
        failure_probability: probability per image that its certified radius is wrong, in
            [5e-13, 1).
        looks: int64 [L], increasing, >= 1.
    """
    check_sigma(sigma)
    check_failure_probability(failure_probability)
    if failure_probability < _LEAST_FAILURE_PROBABILITY:
        raise InputError(
            f"failure_probability {failure_probability:g} must be at least "
            f"{_LEAST_FAILURE_PROBABILITY:g}, below which sums in float64 do not keep the level."
        )
    if radii.ndim != 1 or len(radii) < 1 or radii[0] < 0 or np.any(np.diff(radii) <= 0):
        raise InputError(f"radii must be at least 0 and increase, but are {radii.tolist()}.")
    if looks.ndim != 1 or len(looks) < 1 or looks[0] < 1 or np.any(np.diff(looks) <= 0):
        raise InputError(f"looks must be at least 1 and increase, but are {looks.tolist()}.")
    schedule = tuple(looks.tolist())
    never = (-1,) * len(schedule)
    # The sampled noise may make other classes less likely than the exact one by so much.
    others = ndtr(-radii / sigma) - SAMPLING_ERROR
    limits = [
        _limits(float(other), failure_probability, schedule) if other > 0 else never
        for other in others
    ]
    return SequentialDesign(
        radii=radii, others=others, looks=looks, limits=np.array(limits, dtype=np.int64)
    )


@lru_cache(maxsize=4096)
def _limits(
    other_probability: float, failure_probability: float, looks: tuple[int, ...]
) -> tuple[int, ...]:
    """Return how many samples of other classes each look of one test tolerates.

    The test succeeds with probability at most `failure_probability` over all looks together where
    other classes have a probability of at least `other_probability`. At equality the probability is
    summed exactly over all paths of counts, look by look (Armitage, McPherson and Rowe 1969), and
    each look spends what the spending function has released (Lan and DeMets 1983); above it, more
    samples fall to other classes on every path, so fewer paths succeed.
    """
    if looks[-1] * np.log1p(-other_probability) > np.log(failure_probability):
        # Not even all samples in one class are unlikely enough.
        return (-1,) * len(looks)
    released = (
        failure_probability
        * (1 - _ROUNDING)
        * _released_share(other_probability, failure_probability, np.array(looks, dtype=np.float64))
    )
    # The distribution of the number of other samples on paths without success, from `lowest` up.
    unsuccessful, lowest = np.ones(1), 0
    spent, previous = 0.0, 0
    limits = []
    for look, allowed in zip(looks, released, strict=True):
        samples, previous = look - previous, look
        first, step = _binomial(samples, other_probability)
        unsuccessful, lowest = np.convolve(unsuccessful, step), lowest + first
        spent += max(0.0, 1.0 - float(step.sum()))
        succeeding = int(np.searchsorted(np.cumsum(unsuccessful), allowed - spent, side="right"))
        spent += float(unsuccessful[:succeeding].sum())
        # Also where fewer samples would have succeeded before, no path is without success.
        limits.append(lowest + succeeding - 1)
        unsuccessful, lowest = unsuccessful[succeeding:], lowest + succeeding
        # What is left out counts as success, on the safe side.
        kept = np.flatnonzero(unsuccessful > _NEGLIGIBLE)
        last = int(kept[-1]) + 1 if len(kept) else 0
        spent += float(unsuccessful[last:].sum())
        unsuccessful = unsuccessful[:last]
        if not len(unsuccessful):
            unsuccessful = np.zeros(1)
    return tuple(limits)


def _released_share(other_probability: float, failure_probability: float, looks: Floats) -> Floats:
    """Return which share of the failure probability may be spent up to each look.

    It grows with the logarithm of the samples: images whose radius is far from the tested one are
    decided after few, others after many, and no scale is preferred. The last look releases all.
    """
    earliest = np.log(failure_probability * _FIRST_SHARE) / np.log1p(-other_probability)
    share = np.zeros(len(looks))
    if earliest < looks[-1]:
        progress = np.log(looks / earliest) / np.log(looks[-1] / earliest)
        share = np.where(progress >= 0, _FIRST_SHARE + (1 - _FIRST_SHARE) * progress, 0.0)
    share[-1] = 1.0
    return share


def _binomial(samples: int, probability: float) -> tuple[int, Floats]:
    """Return where the binomial distribution begins to matter, and its probabilities from there."""
    reach = 12 * np.sqrt(samples * probability * (1 - probability)) + 40
    first = max(0, int(samples * probability - reach))
    last = min(samples, int(samples * probability + reach) + 1)
    return first, binomial_probabilities(np.arange(first, last + 1), samples, probability)
