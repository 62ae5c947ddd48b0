"""Images with the certified accuracies of published results, for replaying certification."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

SIGMA = 0.25
RADII = np.array([0.0, 0.25, 0.5, 0.75])
_CLASSES = 10
# Of what the first class leaves, the second has this share and the others divide the rest.
_RUNNER_UP = 0.6


@dataclass(frozen=True)
class Profile:
    """Published certified accuracies at `RADII` for CIFAR-10 and sigma = 0.25.

    Attributes:
        name: where they are from.
        certified_accuracy: at each radius.
        misclassified: share of images certified for a wrong class.
        largest_radius: at which certified accuracy reaches 0, extrapolated.
    """

    name: str
    certified_accuracy: tuple[float, ...]
    misclassified: float
    largest_radius: float


PROFILES = (
    # Table 1 of the paper. It does not say how the 42.4 % that are not certified correctly divide;
    # two thirds are wrong here, as in the log below.
    Profile("DE-CROP, 1 % of CIFAR-10", (0.576, 0.272, 0.092, 0.022), 0.28, 1.0),
    Profile("Cohen et al., published log", (0.748, 0.600, 0.428, 0.266), 0.166, 1.2),
)


def virtual_images(
    profile: Profile, count: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Make class probabilities under noise, float64 [count, 10], and labels, int64 [count].

    Certified radii of correctly classified images follow the profile, linearly between its radii;
    those of misclassified images follow 0.7 times the same law; the others have no class with a
    probability above 1/2, which is their label's for half of them.
    """
    generator = np.random.default_rng(seed)
    share = (np.arange(count) + 0.5) / count
    accuracy = np.array([*profile.certified_accuracy, 0.0])
    radii = np.array([*RADII, profile.largest_radius])

    def radius_with_share_above(above: NDArray[np.float64]) -> NDArray[np.float64]:
        interpolated: NDArray[np.float64] = np.interp(-above, -accuracy, radii)
        return interpolated

    correct = share < accuracy[0]
    wrong = ~correct & (share < accuracy[0] + profile.misclassified)
    radius = np.where(
        wrong,
        0.7 * radius_with_share_above(generator.uniform(0, accuracy[0], count)),
        radius_with_share_above(share),
    )
    top = norm.cdf(radius / SIGMA)
    neither = ~correct & ~wrong
    top[neither] = generator.uniform(0.3, 0.5, int(neither.sum()))
    others = [_RUNNER_UP] + [(1 - _RUNNER_UP) / (_CLASSES - 2)] * (_CLASSES - 2)
    probabilities = np.column_stack([top, np.outer(1 - top, others)])
    labels = np.where(correct | (neither & (generator.random(count) < 0.5)), 0, _CLASSES - 1)
    return probabilities, labels
