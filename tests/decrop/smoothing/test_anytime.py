from collections.abc import Callable
from math import lgamma

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta, binom, norm

from decrop.errors import InputError
from decrop.smoothing import anytime
from decrop.smoothing.anytime import anytime_certificates, anytime_lower_bound
from decrop.smoothing.certificates import ABSTAIN, SAMPLING_ERROR, lower_confidence_bound
from tests.cases import cases
from tests.decrop.smoothing.soundness import (
    CLASSIFIERS,
    LEVEL,
    SIGMA,
    STOPPING_RULES,
    Classifier,
    assert_sound,
    two_of,
    wrong_share,
    wrong_shares_when_stopped,
)

BLOCKS = [20] * 10 + [100] * 10 + [500] * 10

Bound = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


def sample_proportion(
    successes: np.ndarray, trials: np.ndarray, failure_probability: float
) -> np.ndarray:
    return np.asarray(np.clip(np.asarray(successes) / trials, 1e-12, 1 - 1e-12))


@pytest.mark.parametrize(
    "classifier", two_of(CLASSIFIERS, "two classes, sharp", "ten classes, runner-up close")
)
def test_wrong_certificates_are_as_rare_as_promised_however_samples_stop(
    classifier: Classifier,
) -> None:
    shares = wrong_shares_when_stopped(
        anytime_certificates, classifier, classifier.one_sided_radius, BLOCKS
    )
    assert len(shares) == len(STOPPING_RULES)
    for share in shares.values():
        assert_sound(share)


@pytest.mark.parametrize(
    "name", ["two classes, tied", "two classes, sharp", "two classes, at the radius asked for"]
)
def test_naive_peeking_would_be_caught(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(anytime, "anytime_lower_bound", lower_confidence_bound)
    classifier = CLASSIFIERS[name]
    shares = wrong_shares_when_stopped(
        anytime_certificates, classifier, classifier.one_sided_radius, BLOCKS
    )
    # At a number of samples that was fixed beforehand the same bound is sound.
    assert_sound(shares["never_stop_early"])
    with pytest.raises(AssertionError, match="wrong"):
        assert_sound(shares["stop_when_certified_beyond"])
    with pytest.raises(AssertionError, match="wrong"):
        assert_sound(shares["stop_at_the_largest_radius"])


def test_the_sample_proportion_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anytime, "anytime_lower_bound", sample_proportion)
    classifier = CLASSIFIERS["two classes, sharp"]
    with pytest.raises(AssertionError, match="wrong"):
        assert_sound(wrong_share(anytime_certificates, classifier, classifier.one_sided_radius))


def probability_of_ever_exceeding(bound: Bound, p: float, trials: int, level: float) -> float:
    """P(the bound exceeds p after any of the trials), exactly, trial by trial."""
    # Where never exceeded so far: the probability of each number of successes.
    alive = np.array([1.0])
    for t in range(1, trials + 1):
        alive = np.append(alive, 0.0) * (1 - p) + np.append(0.0, alive) * p
        alive[bound(np.arange(t + 1), np.asarray(t), level) > p] = 0.0
    return float(1 - alive.sum())


def mixture_towards_nine_tenths(
    successes: np.ndarray, trials: np.ndarray, failure_probability: float
) -> np.ndarray:
    return anytime_lower_bound(successes, trials, failure_probability, a=90, b=10)


def mixture_at_twice_the_level(
    successes: np.ndarray, trials: np.ndarray, failure_probability: float
) -> np.ndarray:
    return mixture_towards_nine_tenths(successes, trials, 2 * failure_probability)


def test_bound_is_ever_exceeded_as_rarely_as_promised_and_hardly_more_rarely() -> None:
    # A mixture on one side of p, so that Ville's inequality is almost an equation.
    exceeded = probability_of_ever_exceeding(mixture_towards_nine_tenths, 0.8, 400, LEVEL)
    assert 0.85 * LEVEL < exceeded <= LEVEL


@pytest.mark.parametrize(
    "wrong_bound", [mixture_at_twice_the_level, lower_confidence_bound, sample_proportion]
)
def test_a_wrong_sequence_of_bounds_would_be_caught(wrong_bound: Bound) -> None:
    assert probability_of_ever_exceeding(wrong_bound, 0.8, 400, LEVEL) > 1.5 * LEVEL


@cases("p", [0.1, 0.5, 0.6, 0.95])
def test_default_mixture_is_sound_for_every_proportion(p: float) -> None:
    assert 0 < probability_of_ever_exceeding(anytime_lower_bound, p, 300, LEVEL) <= LEVEL


@cases(
    ("successes", "trials", "a", "b"),
    [(1, 1, 0.5, 0.5), (7, 10, 0.5, 0.5), (60, 90, 2.0, 1.0), (95, 100, 0.5, 0.5)],
)
def test_bound_solves_the_mixture_of_likelihood_ratios(
    successes: int, trials: int, a: float, b: float
) -> None:
    bound = float(anytime_lower_bound(successes, trials, LEVEL, a=a, b=b))

    def weighted_ratio(q: float) -> float:
        ratio = binom.pmf(successes, trials, q) / binom.pmf(successes, trials, bound)
        return float(beta.pdf(q, a, b) * ratio)

    mixture, _ = quad(weighted_ratio, 0, 1, limit=200, points=[0.5])
    assert mixture == pytest.approx(1 / LEVEL, rel=1e-6)
    assert bound < successes / trials


def test_bounds_by_hand() -> None:
    # B(1/2 + t, 1/2) / B(1/2, 1/2) is the central binomial coefficient over 4^t: 1/2, 3/8, 5/16.
    bound = anytime_lower_bound([1, 2, 3], [1, 2, 3], LEVEL)
    assert bound == pytest.approx(
        [LEVEL / 2, (3 / 8 * LEVEL) ** (1 / 2), (5 / 16 * LEVEL) ** (1 / 3)]
    )


def test_bound_is_safe_with_a_million_trials() -> None:
    trials = 10**6
    bound = anytime_lower_bound([0, 50, 500_000, 999_999, trials], trials, 0.001)
    assert bound[0] == 0
    assert np.all(np.diff(bound) > 0)
    assert 0 < bound[1] < 50e-6
    assert 0.495 < bound[2] < 0.5
    log_coefficient = lgamma(2 * trials + 1) - 2 * lgamma(trials + 1) - 2 * trials * np.log(2)
    closed_form = np.exp((log_coefficient + np.log(0.001)) / trials)
    assert 1 - bound[4] - SAMPLING_ERROR == pytest.approx(1 - closed_form, rel=1e-6)


def test_rows_may_have_different_numbers_of_samples() -> None:
    selection = np.array([[1, 9, 0]] * 4)
    estimation = np.array([[10, 90, 0], [100, 900, 0], [0, 0, 0], [0, 5, 0]])
    result = anytime_certificates(selection, estimation, SIGMA, LEVEL)
    assert result.prediction.tolist() == [1, 1, ABSTAIN, ABSTAIN]
    expected = SIGMA * norm.ppf(anytime_lower_bound([90, 900], [100, 1000], LEVEL))
    assert result.radius[:2] == pytest.approx(expected)
    assert 0 < result.radius[0] < result.radius[1]
    assert result.radius[2:].tolist() == [0, 0]


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(1e-6, 0.99))
def test_bound_lies_below_the_sample_proportion(
    successes: int, failures: int, failure_probability: float
) -> None:
    trials = successes + failures
    bound = float(anytime_lower_bound(successes, trials, failure_probability))
    # Where it lies below what its rounding is worth, it is 0.
    assert bound == 0 if successes == 0 else 0 <= bound < successes / trials
    # Of the bounds that grow with the successes and hold at one number of trials, Clopper-Pearson's
    # is the largest.
    if trials > 0:
        assert bound <= lower_confidence_bound(successes, trials, failure_probability) + 1e-12


@given(
    st.integers(1, 500),
    st.integers(0, 500),
    st.floats(1e-6, 0.5),
    st.floats(0.01, 2),
)
def test_radius_grows_with_the_top_count(
    trials: int, successes: int, failure_probability: float, sigma: float
) -> None:
    top = np.array([min(successes, trials), min(successes + 1, trials)])
    estimation = np.stack([top, trials - top, np.zeros_like(top)], axis=1)
    selection = np.array([[10, 0, 0]] * 2)
    result = anytime_certificates(selection, estimation, sigma, failure_probability)
    assert 0 <= result.radius[0] <= result.radius[1]
    abstains = result.prediction == ABSTAIN
    assert np.all(result.radius[abstains] == 0)
    assert np.all(result.radius[~abstains] > 0)
    assert np.all(result.prediction[~abstains] == 0)


def test_bad_arguments_of_the_bound_are_refused() -> None:
    with pytest.raises(InputError, match="failure_probability"):
        anytime_lower_bound(1, 2, 1.0)
    with pytest.raises(InputError, match="successes"):
        anytime_lower_bound(3, 2, 0.05)
    with pytest.raises(InputError, match="successes"):
        anytime_lower_bound(-1, 2, 0.05)
    for a, b in [(0.0, 0.5), (0.5, -1.0), (float("inf"), 0.5), (0.5, float("nan"))]:
        with pytest.raises(InputError, match="a and b"):
            anytime_lower_bound(1, 2, 0.05, a=a, b=b)
