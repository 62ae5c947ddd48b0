"""The envelope: of each image the largest of its certificates at several noise levels.

What a certificate of it means: the smoothed classifier at the standard deviation of that image does
not change its answer within the radius. It is no certificate of one classifier that chooses the
standard deviation by the image, for within the radius the choice might change (Súkeník, Kuvshinov
and Günnemann, Intriguing Properties of Input-Dependent Randomized Smoothing, ICML 2022).
"""

from collections.abc import Sequence

import numpy as np

from decrop.errors import InputError
from decrop.smoothing.certificates import ABSTAIN, Floats, Integers, check_failure_probability


def split_failure_probability(failure_probability: float, parts: int) -> float:
    """Return the level of each of several certificates of an image that are to hold together.

    By Bonferroni's inequality (Dunn 1961, Journal of the American Statistical Association 56(293))
    all of them hold with a probability of at least 1 - `failure_probability`, however they depend
    on each other. So one of them may be chosen, by whatever they say.

    Args:
        failure_probability: that one of them is wrong, in (0, 1).
        parts: how many certificates there are, >= 1.
    """
    check_failure_probability(failure_probability)
    if parts < 1:
        raise InputError(f"parts must be at least 1, but is {parts}.")
    return failure_probability / parts


def largest_certificates(certificates: Sequence[tuple[Integers, Floats]]) -> Integers:
    """Return which of several certificates of each image has the largest radius, int64 [B].

    No label is looked at, so that of a wrong class is taken where it is the largest. The first of
    equal ones counts; -1 where all abstain.

    Args:
        certificates: predictions int64 [B], `ABSTAIN` among them, and radii float64 [B], of the
            same images, each at the level of `split_failure_probability`.
    """
    predictions, radii = map(np.stack, zip(*certificates, strict=True))
    answered = predictions != ABSTAIN
    largest = np.where(answered, radii, -1.0).argmax(axis=0)
    chosen: Integers = np.where(answered.any(axis=0), largest, -1)
    return chosen
