"""Which images are worth further samples, from counts alone; validity never rests on it."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, xlog1py, xlogy

from decrop.smoothing.certificates import Floats, Integers
from decrop.smoothing.sequential import SequentialDesign

# Share of all images whose certificate at a radius may be given up, about, to save samples.
GIVEN_UP = 0.003
# Found by replaying published accuracies: with it, about as many images are given up.
_PATIENCE = 1.4
# Phi^-1(p) of images as they may be, before anything is known of them.
_EVEN_PRIOR = np.linspace(-2.0, 5.0, 141)


def patience_of_radii(
    design: SequentialDesign, *, given_up: Floats, samples: int, other_samples: Integers
) -> Floats:
    """Return the samples after which an image just at each radius is given up, > 0, float64 [R].

    To certify an image takes samples in inverse proportion to the square of its distance beyond the
    radius. So the patience is for a distance: that which the last look needs, and further so much
    that the images within it are the share which may be given up. How many images lie near each
    radius is estimated from the samples that chose their classes, whatever their labels.

    Args:
        design: the tests.
        given_up: float64 [R], share of images, > 0, whose certificate at each radius may be given
            up (`GIVEN_UP`).
        samples: that chose the class of each image, >= 1.
        other_samples: int64 [B], how many of them are of other classes.
    """
    reachable = design.limits[:, -1] >= 0
    others, most = design.others[reachable], int(design.looks[-1])
    needed = -ndtri(others)
    density = _density(needed, samples, other_samples)
    # Of Phi^-1(p), estimated from one sample.
    normal_density = np.exp(-(needed**2) / 2) / np.sqrt(2 * np.pi)
    error = np.sqrt(others * (1 - others)) / normal_density
    last = np.maximum(_score(most, design.limits[reachable, -1], others), 0) / np.sqrt(most)
    patience = np.ones(len(design.radii))
    patience[reachable] = _PATIENCE / (last + given_up[reachable] / (density * error)) ** 2
    return patience


def worthwhile(
    design: SequentialDesign,
    look: int,
    *,
    patience: Floats,
    reached: Integers,
    other_samples: Integers,
    known_samples: int,
    known_other_samples: Integers,
) -> tuple[NDArray[np.bool_], Integers]:
    """Tell which images to sample on from after a look, and how many more samples that may take.

    An image goes on towards a radius while its score, the standard errors by which its samples
    speak for the radius, exceeds the logarithm of its samples in units of the radius's patience.
    That is nearly the rule that backward induction finds best where all distances from the radius
    are equally likely and a certificate has a fixed price in samples (Chernoff 1972). It goes on
    while that holds for any radius that it has not reached. Giving up costs tightness only, never
    validity.

    Args:
        design: the tests.
        look: number of the look that was just taken, in [0, L - 1).
        patience: float64 [R] (`patience_of_radii`).
        reached: int64 [B], number of certified radii, < R.
        other_samples: int64 [B], samples of other classes in the tests so far.
        known_samples: of each image, those that chose the class included.
        known_other_samples: int64 [B], how many of them are of other classes.

    Returns:
        bool [B], and int64 [B], the samples until the image has the next radius that it goes on for
        or gives it up, if its share of other classes stays as it is.
    """
    scores = _score(known_samples, known_other_samples[:, None], design.others)
    pursued: NDArray[np.bool_] = scores > np.log(known_samples / patience)
    pursued &= other_samples[:, None] <= design.limits[:, -1]
    pursued &= np.arange(len(patience)) >= reached[:, None]
    target = pursued.argmax(axis=1)
    rows = np.arange(len(target))
    score = scores[rows, target]
    to_come = design.looks[look + 1 :] - design.looks[look]
    growth = 1 + to_come / known_samples
    share = known_other_samples / known_samples
    later = other_samples[:, None] + share[:, None] * to_come
    decided = (later <= design.limits[target][:, look + 1 :]) | (
        score[:, None] * np.sqrt(growth) <= np.log(known_samples * growth / patience[target, None])
    )
    decided[:, -1] = True
    return pursued[rows, target], to_come[decided.argmax(axis=1)]


def _score(samples: int, other_samples: Integers, others: Floats) -> Floats:
    """Return by how many standard errors fewer samples are of other classes than expected."""
    # Of radii that no samples reach it may be less than nothing.
    others = np.maximum(others, np.finfo(float).tiny)
    score: Floats = (samples * others - other_samples) / np.sqrt(samples * others * (1 - others))
    return score


def _density(needed: Floats, samples: int, other_samples: Integers) -> Floats:
    """Return how many of the images, as a share, lie at each Phi^-1(p) per unit of it.

    It is the mean of the posteriors that the samples leave of the even prior, beside one image of
    which nothing is known.
    """
    others = ndtr(-_EVEN_PRIOR)[:, None]
    counts, images = np.unique(other_samples, return_counts=True)
    log_likelihood = xlogy(counts, others) + xlog1py(samples - counts, -others)
    posterior = np.exp(log_likelihood - log_likelihood.max(axis=0))
    posterior /= posterior.sum(axis=0)
    share = (posterior @ images + 1 / len(_EVEN_PRIOR)) / (images.sum() + 1)
    density: Floats = np.interp(needed, _EVEN_PRIOR, share / (_EVEN_PRIOR[1] - _EVEN_PRIOR[0]))
    return density
