from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binom, norm

from decrop.errors import InputError
from decrop.rejection import certificates as rejection
from decrop.rejection.certificates import rejection_certificates, rejection_predictions
from decrop.smoothing.certificates import (
    ABSTAIN,
    Certificates,
    cohen_certificates,
    lower_confidence_bound,
    smoothed_predictions,
)
from tests.decrop.smoothing.soundness import (
    LEVEL,
    MOST_WRONG,
    SIGMA,
    Classifier,
    assert_sound,
    two_of,
    wrong_share,
)

CLASSIFIERS = {
    "two classes, tied": Classifier((0.4, 0.4), 0.2),
    "two classes, runner-up close": Classifier((0.42, 0.38), 0.2),
    "two classes, none rejected": Classifier((0.705, 0.295), 0.0),
    "two classes, mostly rejected": Classifier((0.25, 0.05), 0.7),
    "two classes, at the radius asked for": Classifier((norm.cdf(0.5), norm.cdf(-1.5)), 0.2417),
    "two classes, easy": Classifier((0.9, 0.01), 0.09),
    "ten classes, runner-up close": Classifier((0.35, 0.3, *[0.01] * 8), 0.27),
    "ten classes, equal runners-up": Classifier((0.45, *[0.03] * 9), 0.28),
}


def sample_proportion(successes: np.ndarray, trials: int, failure_probability: float) -> np.ndarray:
    return np.asarray(np.clip(np.asarray(successes) / trials, 1e-12, 1 - 1e-12))


def bound_at_four_times_the_level(
    successes: np.ndarray, trials: int, failure_probability: float
) -> np.ndarray:
    return lower_confidence_bound(successes, trials, 4 * failure_probability)


@pytest.mark.parametrize(
    "classifier",
    two_of(CLASSIFIERS, "two classes, runner-up close", "ten classes, runner-up close"),
)
def test_wrong_certificates_are_as_rare_as_promised(classifier: Classifier) -> None:
    assert_sound(wrong_share(rejection_certificates, classifier, classifier.rejection_radius))


# Where none is rejected both bounds fail together, at half the level: twice is sound there.
@pytest.mark.parametrize("wrong_bound", [sample_proportion, bound_at_four_times_the_level])
def test_a_wrong_bound_would_be_caught(
    monkeypatch: pytest.MonkeyPatch, wrong_bound: Callable[..., np.ndarray]
) -> None:
    classifier = CLASSIFIERS["two classes, none rejected"]
    monkeypatch.setattr(rejection, "lower_confidence_bound", wrong_bound)
    with pytest.raises(AssertionError, match="wrong"):
        assert_sound(wrong_share(rejection_certificates, classifier, classifier.rejection_radius))


def certificates_that_accept_the_rejected(
    selection: np.ndarray, estimation: np.ndarray, sigma: float, failure_probability: float
) -> Certificates:
    """The mistake of counting rejected samples for the class that the image most likely has."""
    moved = estimation.copy()
    moved[:, 0] += moved[:, -2]
    moved[:, -2] = 0
    return rejection_certificates(selection, moved, sigma, failure_probability)


def test_counting_the_rejected_samples_for_the_class_would_be_caught() -> None:
    classifier = CLASSIFIERS["two classes, mostly rejected"]
    share = wrong_share(rejection_certificates, classifier, classifier.rejection_radius)
    assert 0 < share <= MOST_WRONG
    with pytest.raises(AssertionError, match="wrong"):
        assert_sound(
            wrong_share(
                certificates_that_accept_the_rejected, classifier, classifier.rejection_radius
            )
        )


def proportion_where_as_many_are_rare(successes: int, trials: int, level: float) -> float:
    return float(brentq(lambda p: binom.sf(successes - 1, trials, p) - level, 0.0, 1.0))


def test_radius_is_the_theorems() -> None:
    counts = np.array([[5_000, 500, 500, 4_000, 0]])
    result = rejection_certificates(counts, counts, SIGMA, 0.01)
    assert result.prediction.tolist() == [0]
    p_a = proportion_where_as_many_are_rare(5_000, 10_000, 0.005)
    p_a_or_r = proportion_where_as_many_are_rare(9_000, 10_000, 0.005)
    assert p_a == pytest.approx(0.487, abs=1e-3)
    assert p_a_or_r == pytest.approx(0.892, abs=1e-3)
    expected = SIGMA / 2 * (norm.ppf(p_a) + norm.ppf(p_a_or_r))
    assert result.radius[0] == pytest.approx(expected, rel=1e-8)
    # CERTIFY, which takes the rejected samples for another class, has nothing to say.
    assert cohen_certificates(counts, counts, SIGMA, 0.01).prediction.tolist() == [ABSTAIN]


def test_nothing_rejected_is_certify_at_half_the_level() -> None:
    counts = np.array([[90, 10, 0, 0], [55, 45, 0, 0]])
    without = counts[:, [0, 1, 3]]
    result = rejection_certificates(counts, counts, SIGMA, LEVEL)
    expected = cohen_certificates(without, without, SIGMA, LEVEL / 2)
    assert np.allclose(result.radius, expected.radius, rtol=1e-15)
    assert np.array_equal(result.prediction, expected.prediction)
    assert expected.prediction.tolist() == [0, ABSTAIN]


def test_the_rejected_class_is_never_certified() -> None:
    counts = np.array([[1, 2, 97, 0], [0, 0, 100, 0], [10, 45, 45, 0]])
    result = rejection_certificates(counts, counts, SIGMA, LEVEL)
    assert result.prediction.tolist() == [ABSTAIN, ABSTAIN, 1]
    assert (result.radius > 0).tolist() == [False, False, True]


@given(
    st.integers(1, 300),
    st.integers(0, 300),
    st.integers(0, 300),
    st.floats(1e-6, 0.9),
    st.floats(0.01, 2),
)
def test_radius_grows_with_the_top_count_and_with_the_rejected(
    top: int, other: int, rejected: int, failure_probability: float, sigma: float
) -> None:
    rows = np.array(
        [
            [top, other + 1, rejected, 0],
            [top, other, rejected + 1, 0],
            [top + 1, other, rejected, 0],
        ]
    )
    selection = np.array([[9, 1, 0, 0]] * 3)
    result = rejection_certificates(selection, rows, sigma, failure_probability)
    assert result.radius[0] >= 0
    assert np.all(np.diff(result.radius) >= 0)
    abstains = result.prediction == ABSTAIN
    assert np.all(result.radius[abstains] == 0)
    assert np.all(result.radius[~abstains] > 0)
    assert np.all(result.prediction[~abstains] == 0)
    level = failure_probability / 2
    samples = top + other + rejected + 1
    p_a = lower_confidence_bound(rows[:, 0], samples, level)
    p_a_or_r = lower_confidence_bound(rows[:, 0] + rows[:, 2], samples, level)
    assert np.all(abstains | (p_a + p_a_or_r > 1 - 1e-12))
    assert np.all(~abstains | (p_a + p_a_or_r < 1 + 1e-12))


GOOD = np.array([[9, 1, 2, 0]])


def test_the_rejected_are_never_predicted_nor_counted_against_a_class() -> None:
    counts = np.array([[20, 0, 80, 0], [0, 0, 100, 0], [3, 2, 95, 0], [20, 0, 79, 1]])
    assert rejection_predictions(counts, 0.001).tolist() == [0, ABSTAIN, ABSTAIN, ABSTAIN]


def test_predictions_without_rejections_are_those_of_predict() -> None:
    counts = np.random.default_rng(5).multinomial(60, [0.5, 0.3, 0.2, 0.0, 0.0], size=200)
    without = np.delete(counts, -2, axis=1)
    assert np.array_equal(
        rejection_predictions(counts, LEVEL), smoothed_predictions(without, LEVEL)
    )


@pytest.mark.parametrize("classes", [(0.21, 0.19), (0.13, 0.12, 0.1), (0.05, *[0.045] * 9)])
def test_wrong_predictions_are_as_rare_as_promised(classes: tuple[float, ...]) -> None:
    counts = Classifier(classes, 1 - sum(classes)).sample(100, np.random.default_rng(6))
    predictions = rejection_predictions(counts, LEVEL)
    assert np.mean((predictions != ABSTAIN) & (predictions != 0)) <= MOST_WRONG
    # The class with most samples alone would not do.
    most_counted = counts[:, :-2].argmax(axis=1)
    assert np.mean(most_counted != 0) > 5 * MOST_WRONG


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (GOOD[:, :3], "two classes, the rejected"),
        (np.array([[9, 1, 2, 0], [9, 2, 2, 0]]), "same number of samples"),
        (0 * GOOD, "no samples"),
    ],
)
def test_bad_counts_are_refused(counts: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rejection_predictions(counts, 0.001)


def test_certificates_need_a_column_of_the_rejected() -> None:
    with pytest.raises(InputError, match="two classes, the rejected"):
        rejection_certificates(GOOD[:, :3], GOOD[:, :3], 0.25, 0.001)
