import numpy as np
import pytest
from scipy.stats import binom

from decrop.errors import InputError
from decrop.evaluation.accuracy import (
    area_under_curve,
    average_certified_radius,
    certified_accuracy,
    certified_correct,
    exact_interval,
)
from tests.cases import cases

# The first rows of the published results of Cohen et al. (2019), CIFAR-10 at sigma = 0.25.
LABELS = [3, 7, 4, 7, 8, 4, 8, 6, 2, 0]
PREDICTION = [3, -1, 4, 7, 8, -1, 8, 6, 2, 0]
RADIUS = [0.378, 0.0, 0.341, 0.941, 0.755, 0.0, 0.163, 0.203, 0.548, 0.557]


def test_abstentions_and_wrong_classes_count_against_and_a_radius_is_enough_for_itself() -> None:
    prediction, radius, labels = [1, 0, -1, 1], [0.5, 0.9, 0.0, 0.25], [1, 1, 1, 1]
    assert certified_accuracy(prediction, radius, labels, [0, 0.25, 0.5]).tolist() == [
        0.5,
        0.5,
        0.25,
    ]
    assert certified_correct(prediction, radius, labels, [0.5]).tolist() == [
        [True, False, False, False]
    ]


def test_an_abstention_is_not_correct_even_where_its_label_is_unknown() -> None:
    assert certified_accuracy([-1], [0.0], [-1], [0.0]).tolist() == [0.0]


def test_average_certified_radius_counts_wrong_images_as_zero() -> None:
    assert average_certified_radius([1, 0, -1, 1], [0.5, 0.9, 0.0, 0.25], [1] * 4) == 0.1875
    assert average_certified_radius(PREDICTION, RADIUS, LABELS) == pytest.approx(0.3886)


def test_exact_interval_inverts_both_binomial_tails() -> None:
    low, high = exact_interval([0, 7, 20], 20)
    assert (low[0], high[2]) == (0.0, 1.0)
    assert binom.sf(6, 20, low[1]) == pytest.approx(0.025)
    assert binom.cdf(7, 20, high[1]) == pytest.approx(0.025)
    assert binom.cdf(0, 20, high[0]) == pytest.approx(0.025)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_exact_interval_covers_at_least_its_level(level: float) -> None:
    successes = np.arange(51)
    low, high = exact_interval(successes, 50, level)
    proportions = np.linspace(0.01, 0.99, 99)[:, None]
    covered = (low <= proportions) & (proportions <= high)
    coverage = (binom.pmf(successes, 50, proportions) * covered).sum(axis=1)
    assert coverage.min() >= level
    assert coverage.min() < level + 0.05


@cases(
    ("prediction", "radius", "labels"),
    [([], [], []), ([1], [0.5], [1, 2]), ([1], [0.5, 0.1], [1]), ([[1]], [[0.5]], [[1]])],
)
def test_missing_or_mismatched_images_are_refused(
    prediction: list[int], radius: list[float], labels: list[int]
) -> None:
    with pytest.raises(InputError, match="image"):
        certified_accuracy(prediction, radius, labels, [0.0])
    with pytest.raises(InputError, match="image"):
        average_certified_radius(prediction, radius, labels)


def test_the_area_under_the_curve_is_that_of_its_steps() -> None:
    """Against the integral of certified accuracy, and where nothing is cut off the whole radius."""
    generator = np.random.default_rng(3)
    radius = generator.uniform(0, 1, 200)
    prediction, labels = generator.integers(-1, 3, 200), generator.integers(0, 3, 200)
    radius[prediction < 0] = 0
    for largest in (0.0, 0.3, 0.75, 2.0):
        edges = np.unique([0.0, *radius[radius < largest], largest])
        accuracy = certified_accuracy(prediction, radius, labels, edges[1:])
        area = float((np.diff(edges) * accuracy).sum())
        assert area_under_curve(prediction, radius, labels, largest) == pytest.approx(area)
    whole = average_certified_radius(prediction, radius, labels)
    assert area_under_curve(prediction, radius, labels, 2.0) == whole
