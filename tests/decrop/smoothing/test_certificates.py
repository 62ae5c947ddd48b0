from collections.abc import Callable

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm

from decrop.errors import InputError
from decrop.smoothing import certificates
from decrop.smoothing.certificates import (
    ABSTAIN,
    SAMPLING_ERROR,
    cohen_certificates,
    lower_confidence_bound,
    smoothed_predictions,
)
from tests.cases import cases

SIGMA = 0.25
LEVEL = 0.05
SELECTION_SAMPLES = 50
# Pairs (p, n) where Clopper-Pearson's conservatism hides nothing: its exact error is just below
# LEVEL, and that of a bound at twice the level is well above.
SHARP = [(0.885, 100), (0.705, 200), (0.71, 1000)]


def bound_at_twice_the_level(
    successes: np.ndarray, trials: int, failure_probability: float
) -> np.ndarray:
    return lower_confidence_bound(successes, trials, 2 * failure_probability)


def sample_proportion(successes: np.ndarray, trials: int, failure_probability: float) -> np.ndarray:
    return np.asarray(np.minimum(np.asarray(successes) / trials, 1 - 1e-12))


def with_finite_samples_only(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.stack([first, second, np.zeros_like(first)], axis=1).astype(np.int64)


def is_wrong(result: certificates.Certificates, exact_radius: np.ndarray) -> np.ndarray:
    """Certificates for class 0 beyond its exact radius, or for class 1, which has none."""
    beyond = (result.prediction == 0) & (result.radius > exact_radius)
    return np.asarray(beyond | (result.prediction == 1))


def exact_failure_rate(p: float, trials: int) -> float:
    """P(wrong certificate) for a linear classifier of two classes, summed over all outcomes.

    Its margin m makes p = Phi(m / (sigma ||w||)), so the exact radius m / ||w|| is sigma Phi^-1(p).
    """
    outcomes = np.arange(trials + 1)
    estimation = with_finite_samples_only(outcomes, trials - outcomes)
    rate = 0.0
    for candidate, probability in (
        (0, binom.sf(SELECTION_SAMPLES / 2 - 0.5, SELECTION_SAMPLES, p)),
        (1, binom.cdf(SELECTION_SAMPLES / 2 - 0.5, SELECTION_SAMPLES, p)),
    ):
        first = np.full(trials + 1, SELECTION_SAMPLES if candidate == 0 else 0)
        selection = with_finite_samples_only(first, SELECTION_SAMPLES - first)
        result = cohen_certificates(selection, estimation, SIGMA, LEVEL)
        wrong = is_wrong(result, np.full(trials + 1, SIGMA * norm.ppf(p)))
        rate += float(probability * binom.pmf(outcomes, trials, p)[wrong].sum())
    return rate


def simulated_failures(trials: int, images: int = 10_000) -> int:
    """Number of wrong certificates among virtual images of a linear classifier."""
    generator = np.random.default_rng(7)
    exact_radius = generator.uniform(0.02, 0.5, images)
    p = norm.cdf(exact_radius / SIGMA)
    first_selected = generator.binomial(SELECTION_SAMPLES, p)
    first_estimated = generator.binomial(trials, p)
    result = cohen_certificates(
        with_finite_samples_only(first_selected, SELECTION_SAMPLES - first_selected),
        with_finite_samples_only(first_estimated, trials - first_estimated),
        SIGMA,
        LEVEL,
    )
    return int(is_wrong(result, exact_radius).sum())


MOST_SIMULATED_FAILURES = binom.ppf(0.999, 10_000, LEVEL)


@cases(("p", "trials"), SHARP)
def test_wrong_certificates_are_as_rare_as_promised_and_hardly_rarer(p: float, trials: int) -> None:
    rate = exact_failure_rate(p, trials)
    assert rate <= LEVEL
    assert rate > 0.98 * LEVEL


@pytest.mark.parametrize("trials", [100, 1000])
def test_simulated_wrong_certificates_are_as_rare_as_promised(trials: int) -> None:
    assert 0 < simulated_failures(trials) <= MOST_SIMULATED_FAILURES


@pytest.mark.parametrize("wrong_bound", [bound_at_twice_the_level, sample_proportion])
@pytest.mark.parametrize(("p", "trials"), SHARP)
def test_a_wrong_bound_would_be_caught_exactly(
    monkeypatch: pytest.MonkeyPatch,
    wrong_bound: Callable[..., np.ndarray],
    p: float,
    trials: int,
) -> None:
    monkeypatch.setattr(certificates, "lower_confidence_bound", wrong_bound)
    assert exact_failure_rate(p, trials) > 1.5 * LEVEL


@pytest.mark.parametrize("wrong_bound", [bound_at_twice_the_level, sample_proportion])
@pytest.mark.parametrize("trials", [100, 1000])
def test_a_wrong_bound_would_be_caught_by_simulation(
    monkeypatch: pytest.MonkeyPatch, wrong_bound: Callable[..., np.ndarray], trials: int
) -> None:
    monkeypatch.setattr(certificates, "lower_confidence_bound", wrong_bound)
    assert simulated_failures(trials) > MOST_SIMULATED_FAILURES


def test_selecting_on_the_estimation_counts_would_be_caught() -> None:
    # Where both classes are equally likely, every certificate is wrong.
    outcomes = np.arange(201)
    counts = with_finite_samples_only(outcomes, 200 - outcomes)
    reused = cohen_certificates(counts, counts, SIGMA, LEVEL)
    reused_rate = binom.pmf(outcomes, 200, 0.5)[reused.prediction != ABSTAIN].sum()
    assert exact_failure_rate(0.5, 200) <= LEVEL < reused_rate


def test_radius_is_the_theorems() -> None:
    result = cohen_certificates(
        np.array([[3, 97, 0, 0]]), np.array([[100, 9_900, 0, 0]]), SIGMA, 0.001
    )
    assert result.prediction.tolist() == [1]
    # Where the bound is the true proportion, as many successes have probability 0.001.
    p = norm.cdf(result.radius[0] / SIGMA) + SAMPLING_ERROR
    assert binom.sf(9_900 - 1, 10_000, p) == pytest.approx(0.001, rel=1e-6)


@cases(("successes", "trials"), [(1, 1), (1, 40), (37, 40), (40, 40)])
def test_bound_inverts_the_binomial_tail(successes: int, trials: int) -> None:
    bound = lower_confidence_bound(successes, trials, LEVEL)
    assert binom.sf(successes - 1, trials, bound) == pytest.approx(LEVEL)


@pytest.mark.parametrize("trials", [10, 10_000, 1_000_000])
def test_bound_leaves_room_for_rounding_and_for_the_sampled_noise(trials: int) -> None:
    # With all successes the exact bound is level^(1/trials), here with 60 digits.
    with mpmath.workdps(60):
        exact = mpmath.mpf(LEVEL) ** (mpmath.mpf(1) / trials)
        room = exact - mpmath.mpf(float(lower_confidence_bound(trials, trials, LEVEL)))
    assert SAMPLING_ERROR < room < 1.2 * SAMPLING_ERROR


def test_radius_is_not_above_that_of_its_bound() -> None:
    counts = np.array([[successes, 1_000 - successes, 0] for successes in range(600, 1_001, 7)])
    radii = cohen_certificates(counts, counts, SIGMA, 0.001).radius
    bounds = lower_confidence_bound(counts[:, 0], 1_000, 0.001)
    with mpmath.workdps(60):
        for radius, bound in zip(radii.tolist(), bounds.tolist(), strict=True):
            assert mpmath.ncdf(mpmath.mpf(radius) / mpmath.mpf(SIGMA)) < mpmath.mpf(bound)


def test_bound_broadcasts_and_is_zero_without_success() -> None:
    bound = lower_confidence_bound([[0], [5]], [5, 10], 0.001)
    assert bound.shape == (2, 2)
    assert bound[0].tolist() == [0, 0]
    assert bound[1, 0] == pytest.approx(0.001 ** (1 / 5))


def test_images_with_non_finite_samples_abstain() -> None:
    selection = np.array([[99, 0, 1], [100, 0, 0], [100, 0, 0], [0, 0, 100]])
    estimation = np.array([[100, 0, 0], [99, 0, 1], [100, 0, 0], [0, 0, 100]])
    result = cohen_certificates(selection, estimation, SIGMA, 0.001)
    assert result.prediction.tolist() == [ABSTAIN, ABSTAIN, 0, ABSTAIN]
    assert (result.radius > 0).tolist() == [False, False, True, False]
    assert smoothed_predictions(estimation, 0.001).tolist() == [0, ABSTAIN, 0, ABSTAIN]


@cases("total", [1, 2, 7, 40])
def test_prediction_agrees_with_the_binomial_test(total: int) -> None:
    first = np.arange(total + 1)
    predictions = smoothed_predictions(with_finite_samples_only(first, total - first), LEVEL)
    for successes, prediction in zip(first.tolist(), predictions.tolist(), strict=True):
        decided = binomtest(max(successes, total - successes), total, 0.5).pvalue <= LEVEL
        assert prediction == (int(total - successes > successes) if decided else ABSTAIN)


def decision_rate_at_a_tie(total: int, failure_probability: float) -> float:
    """P(a class is returned) where both are equally likely, so that neither is right."""
    first = np.arange(total + 1)
    predictions = smoothed_predictions(
        with_finite_samples_only(first, total - first), failure_probability
    )
    return float(binom.pmf(first, total, 0.5)[predictions != ABSTAIN].sum())


def test_wrong_predictions_are_as_rare_as_promised() -> None:
    rates = [decision_rate_at_a_tie(total, LEVEL) for total in range(50, 150)]
    assert max(rates) <= LEVEL
    assert max(rates) > 0.9 * LEVEL
    one_sided = [decision_rate_at_a_tie(total, 2 * LEVEL) for total in range(50, 150)]
    assert min(one_sided) > LEVEL


def test_wrong_predictions_are_rare_among_several_classes() -> None:
    generator = np.random.default_rng(3)
    counts = generator.multinomial(100, [0.36, 0.34, 0.3, 0.0], size=10_000)
    predictions = smoothed_predictions(counts, LEVEL)
    wrong = int(((predictions != ABSTAIN) & (predictions != 0)).sum())
    assert wrong <= binom.ppf(0.999, len(counts), LEVEL)
    most_counted = counts[:, :-1].argmax(axis=1)
    assert np.mean(most_counted != 0) > 5 * LEVEL


@given(
    st.integers(1, 500),
    st.integers(0, 500),
    st.floats(1e-6, 0.5),
    st.floats(0.01, 2),
)
def test_radius_grows_with_the_top_count_within_its_limits(
    trials: int, successes: int, failure_probability: float, sigma: float
) -> None:
    successes = min(successes, trials)
    top = np.array([successes, min(successes + 1, trials)])
    selection = np.array([[10, 0, 0], [10, 0, 0]])
    result = cohen_certificates(
        selection, with_finite_samples_only(top, trials - top), sigma, failure_probability
    )
    assert 0 <= result.radius[0] <= result.radius[1]
    most = sigma * norm.ppf(failure_probability ** (1 / trials))
    assert np.all(result.radius <= max(most, 0) * (1 + 1e-9))
    abstains = result.prediction == ABSTAIN
    assert np.all(result.radius[abstains] == 0)
    assert np.all(result.prediction[~abstains] == 0)
    assert np.array_equal(abstains, lower_confidence_bound(top, trials, failure_probability) <= 0.5)


GOOD = np.array([[9, 1, 0]])


def test_bad_arguments_of_predict_and_the_bound_are_refused() -> None:
    with pytest.raises(InputError, match="failure_probability"):
        smoothed_predictions(GOOD, 1.5)
    with pytest.raises(InputError, match="negative"):
        smoothed_predictions(-GOOD, 0.001)
    with pytest.raises(InputError, match="successes"):
        lower_confidence_bound(6, 5, 0.001)
    with pytest.raises(InputError, match="trials"):
        lower_confidence_bound(0, 0, 0.001)
