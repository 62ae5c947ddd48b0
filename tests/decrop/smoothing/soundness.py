"""Synthetic classifiers of known probabilities, and how often certificates of them are wrong."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, norm

from decrop.smoothing.certificates import ABSTAIN, Certificates

SIGMA = 0.25
LEVEL = 0.05
REPETITIONS = 10_000
SELECTION_SAMPLES = 100
MOST_WRONG = binom.ppf(0.9999, REPETITIONS, LEVEL) / REPETITIONS

Rule = Callable[[np.ndarray, np.ndarray, float, float], Certificates]


@dataclass(frozen=True)
class Classifier:
    """Probabilities of the classes under noise; the first is a most probable one.

    Attributes:
        classes: probabilities of the K classes.
        rejected: probability of class R, or None where no sample can be rejected.
    """

    classes: tuple[float, ...]
    rejected: float | None = None

    @property
    def one_sided_radius(self) -> float:
        return float(SIGMA * norm.ppf(self.classes[0]))

    @property
    def two_sided_radius(self) -> float:
        return float(SIGMA / 2 * (norm.ppf(self.classes[0]) - norm.ppf(max(self.classes[1:]))))

    @property
    def rejection_radius(self) -> float:
        """The radius of the exact probabilities, with all other classes taken together."""
        return float(SIGMA / 2 * (norm.ppf(self.classes[0]) - norm.ppf(sum(self.classes[1:]))))

    def sample(self, samples: int, generator: np.random.Generator) -> np.ndarray:
        """Counts of all repetitions, int64 [REPETITIONS, columns], none of them non-finite."""
        outcomes = (*self.classes, *(() if self.rejected is None else (self.rejected,)), 0.0)
        return generator.multinomial(samples, outcomes, size=REPETITIONS)


# Near 0.705 with 200 samples, Clopper-Pearson's conservatism hides nothing; norm.cdf(1) is where
# the radius sigma is exact.
CLASSIFIERS = {
    "two classes, tied": Classifier((0.5, 0.5)),
    "two classes, runner-up close": Classifier((0.52, 0.48)),
    "two classes, sharp": Classifier((0.705, 0.295)),
    "two classes, at the radius asked for": Classifier((norm.cdf(1), norm.cdf(-1))),
    "two classes, easy": Classifier((0.99, 0.01)),
    "ten classes, runner-up close": Classifier((0.5, 0.42, *[0.01] * 8)),
    "ten classes, equal runners-up": Classifier((0.55, *[0.05] * 9)),
    "ten classes, at the radius asked for": Classifier(
        (norm.cdf(1), 0.8 * norm.cdf(-1), *[0.2 / 8 * norm.cdf(-1)] * 8)
    ),
    "ten classes, easy": Classifier((0.99, *[0.01 / 9] * 9)),
}


def two_of(classifiers: dict[str, Classifier], *quick: str) -> list[Any]:
    """Return the classifiers as parameters of a test, all but the quick ones as slow."""
    return [
        pytest.param(value, id=name, marks=() if name in quick else pytest.mark.slow)
        for name, value in classifiers.items()
    ]


def share_of_wrong_certificates(result: Certificates, exact_radius: float) -> float:
    """Share that names another class than the first, or a radius beyond the exact one."""
    wrong = (result.prediction != 0) | (result.radius > exact_radius)
    return float(np.mean(wrong & (result.prediction != ABSTAIN)))


def assert_sound(share: float) -> None:
    assert share <= MOST_WRONG, f"{share:.4f} of the certificates are wrong"


def wrong_share(
    rule: Rule, classifier: Classifier, exact_radius: float, estimation_samples: int = 200
) -> float:
    """Share of wrong certificates from fresh estimation samples of a fixed number."""
    generator = np.random.default_rng(11)
    selection = classifier.sample(SELECTION_SAMPLES, generator)
    estimation = classifier.sample(estimation_samples, generator)
    return share_of_wrong_certificates(rule(selection, estimation, SIGMA, LEVEL), exact_radius)


def wrong_share_of_reused_samples(
    rule: Rule, classifier: Classifier, exact_radius: float, samples: int = 200
) -> float:
    """The mistake of estimating from the samples that selected the class."""
    counts = classifier.sample(samples, np.random.default_rng(12))
    return share_of_wrong_certificates(rule(counts, counts, SIGMA, LEVEL), exact_radius)


# Stopping rules: from the radii at all looks [looks, REPETITIONS] and the radius wished for to the
# look of each repetition at which its samples stop.


def stop_at_the_first(reached: np.ndarray) -> np.ndarray:
    return np.where(reached.any(axis=0), reached.argmax(axis=0), len(reached) - 1)


def stop_when_certified_beyond(radii: np.ndarray, wished: float) -> np.ndarray:
    return stop_at_the_first(radii > wished)


def stop_when_certified_at_all(radii: np.ndarray, wished: float) -> np.ndarray:
    return stop_at_the_first(radii > 0)


def stop_at_the_largest_radius(radii: np.ndarray, wished: float) -> np.ndarray:
    return np.asarray(radii.argmax(axis=0))


def never_stop_early(radii: np.ndarray, wished: float) -> np.ndarray:
    return np.full(radii.shape[1], len(radii) - 1)


STOPPING_RULES = [
    stop_when_certified_beyond,
    stop_when_certified_at_all,
    stop_at_the_largest_radius,
    never_stop_early,
]


def wrong_shares_when_stopped(
    rule: Rule, classifier: Classifier, exact_radius: float, blocks: list[int]
) -> dict[str, float]:
    """Share of wrong certificates under each stopping rule that looks after every block of samples.

    The radius that the samples are stopped for is the exact one, so that they stop once it is
    wrong.
    """
    generator = np.random.default_rng(13)
    selection = classifier.sample(SELECTION_SAMPLES, generator)
    counts = np.cumsum([classifier.sample(block, generator) for block in blocks], axis=0)
    radii = np.stack([rule(selection, look, SIGMA, LEVEL).radius for look in counts])
    shares = {}
    for stop in STOPPING_RULES:
        stopped = counts[stop(radii, max(exact_radius, 0.0)), np.arange(REPETITIONS)]
        result = rule(selection, stopped, SIGMA, LEVEL)
        shares[stop.__name__] = share_of_wrong_certificates(result, exact_radius)
    return shares
