"""Worth of further samples of an image, from its counts so far; never from the order of arrival."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc
from scipy.stats import norm

from decrop.smoothing.certificates import Floats, Integers
from decrop.smoothing.sequential import SequentialDesign

# Samples that a further certified radius may cost, in the most samples of an image, before scaling.
# Found by replaying published accuracies: the smallest that loses less than half a point of them.
_WORTH = 4.0
# Of radii so large that no image reaches them.
_LARGEST_SCALE = 1e6


def worth_of_radii(radii: Floats, sigma: float) -> Floats:
    """Return the samples that certifying each radius is worth, in the most samples of an image.

    Samples tell less about larger radii: the standard error of the radius sigma * Phi^-1(p) that n
    samples estimate is sigma / sqrt(n) times the scale here. Were all radii worth the same, nearly
    all the accuracy that is given up would be that at the largest.

    Args:
        radii: float64 [R], >= 0, in [0,1] pixels.
        sigma: standard deviation of the noise, in [0,1] pixels.
    """
    needed = radii / sigma
    spread = (norm.logcdf(needed) + norm.logsf(needed)) / 2
    scale: Floats = np.exp(np.minimum(spread - norm.logpdf(needed), np.log(_LARGEST_SCALE)))
    return _WORTH * scale


def worthwhile(
    design: SequentialDesign,
    look: int,
    *,
    other_samples: Integers,
    reached: Integers,
    worth: Floats,
    known_samples: Integers,
    known_other_samples: Integers,
) -> tuple[NDArray[np.bool_], Floats]:
    """Tell which images to sample on from after a look, and how many more samples that may take.

    For each later look the probability that the test of the next radius succeeds by then is
    compared with the samples that this is expected to take; an image goes on while its best ratio
    exceeds one success in `worth` times the most samples of an image. So samples go where a success
    is most likely: one price for all images is what divides a common budget among them with most
    successes. Giving up costs tightness only, never validity.

    The share of other classes in the samples to come has the posterior that the samples so far
    leave of Jeffreys' prior, with as much uncertainty added as those samples themselves will have.

    Args:
        design: the tests.
        look: number of the look that was just taken, in [0, L - 1).
        other_samples: int64 [B], samples of other classes in the tests so far.
        reached: int64 [B], number of certified radii, < R.
        worth: float64 [R], of certifying each radius (`worth_of_radii`).
        known_samples: int64 [B], all samples of the image, those that chose the class included.
        known_other_samples: int64 [B], how many of them are of other classes.

    Returns:
        bool [B], and float64 [B], the samples that the best ratio expects.
    """
    taken, later = int(design.looks[look]), design.looks[look + 1 :]
    to_come = later - taken
    tolerated = design.limits[reached][:, look + 1 :] - other_samples[:, None]
    share = ((known_other_samples + 0.5) / (known_samples + 1))[:, None]
    certainty = known_samples[:, None] * to_come / (known_samples[:, None] + to_come)
    by_look = np.where(
        tolerated >= 0,
        betainc(
            0.5 + share * certainty,
            0.5 + (1 - share) * certainty,
            np.clip((tolerated + 0.5) / to_come, 0.0, 1.0),
        ),
        0.0,
    )
    success = np.maximum.accumulate(by_look, axis=1)
    still_sampling = 1 - np.hstack([np.zeros((len(success), 1)), success[:, :-1]])
    samples = np.cumsum(still_sampling * np.diff(design.looks[look:]), axis=1)
    ratio = success / samples
    best = ratio.argmax(axis=1)
    rows = np.arange(len(best))
    value = ratio[rows, best] * worth[reached] * design.looks[-1]
    return value > 1, samples[rows, best]
