from collections.abc import Callable
from functools import cache, partial
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import gammaln, xlogy
from scipy.stats import binom, norm

from decrop.errors import InputError
from decrop.smoothing import two_sided
from decrop.smoothing.certificates import ABSTAIN, cohen_certificates, lower_confidence_bound
from decrop.smoothing.two_sided import Variant, two_sided_certificates
from tests.cases import cases
from tests.decrop.smoothing.soundness import (
    CLASSIFIERS,
    LEVEL,
    REPETITIONS,
    SIGMA,
    Classifier,
    assert_sound,
    two_of,
    wrong_share,
    wrong_share_of_reused_samples,
)

VARIANTS = get_args(Variant)
TIE = CLASSIFIERS["two classes, tied"]
SHARP = CLASSIFIERS["two classes, sharp"]


def bound_at_twice_the_level(
    successes: np.ndarray, trials: int, failure_probability: float
) -> np.ndarray:
    return lower_confidence_bound(successes, trials, 2 * failure_probability)


def sample_proportion(successes: np.ndarray, trials: int, failure_probability: float) -> np.ndarray:
    return np.asarray(np.clip(np.asarray(successes) / trials, 1e-12, 1 - 1e-12))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "classifier", two_of(CLASSIFIERS, "two classes, sharp", "ten classes, runner-up close")
)
def test_wrong_certificates_are_as_rare_as_promised(
    classifier: Classifier, variant: Variant
) -> None:
    rule = partial(two_sided_certificates, variant=variant)
    assert_sound(wrong_share(rule, classifier, classifier.two_sided_radius))


@pytest.mark.parametrize(
    ("wrong_bound", "variant"),
    [
        (sample_proportion, "published"),
        (sample_proportion, "preselected"),
        (sample_proportion, "grid"),
        # "grid" spends just over half of its level on two classes, so twice is still sound there.
        (bound_at_twice_the_level, "published"),
        (bound_at_twice_the_level, "preselected"),
    ],
)
def test_a_wrong_bound_would_be_caught(
    monkeypatch: pytest.MonkeyPatch, wrong_bound: Callable[..., np.ndarray], variant: Variant
) -> None:
    rule = partial(two_sided_certificates, variant=variant)
    share = wrong_share(rule, SHARP, SHARP.two_sided_radius)
    assert share > 0
    assert_sound(share)
    monkeypatch.setattr(two_sided, "lower_confidence_bound", wrong_bound)
    with pytest.raises(AssertionError, match="wrong"):
        assert_sound(wrong_share(rule, SHARP, SHARP.two_sided_radius))


@pytest.mark.parametrize("variant", ["published", "preselected"])
def test_estimating_from_the_selection_samples_would_be_caught(variant: Variant) -> None:
    rule = partial(two_sided_certificates, variant=variant)
    assert_sound(wrong_share(rule, TIE, 0.0))
    with pytest.raises(AssertionError, match="wrong"):
        assert_sound(wrong_share_of_reused_samples(rule, TIE, 0.0))


@cache
def all_outcomes(
    variant: Variant, samples: int, level: float, selected: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Every outcome of three classes, int64 [outcomes, 3], and its radius in units of sigma."""
    first, second = (counts.ravel() for counts in np.mgrid[: samples + 1, : samples + 1])
    third = samples - first - second
    counts = np.stack([first, second, third, np.zeros_like(first)], axis=1)[third >= 0]
    selection = np.tile([*selected, 0], (len(counts), 1))
    result = two_sided_certificates(selection, counts, 1.0, level, variant=variant)
    return counts[:, :3], result.radius


def exact_wrong_rate(
    variant: Variant,
    samples: int,
    classes: tuple[float, float, float],
    level: float,
    selected: tuple[int, int, int] = (70, 25, 5),
) -> float:
    """P(wrong certificate), summed over all outcomes, where the selection finds the top class."""
    outcomes, radius = all_outcomes(variant, samples, level, selected)
    exact_radius = (norm.ppf(classes[0]) - norm.ppf(max(classes[1:]))) / 2
    log_probability = gammaln(samples + 1) - gammaln(outcomes + 1).sum(axis=1)
    log_probability += xlogy(outcomes, classes).sum(axis=1)
    return float(np.exp(log_probability)[radius > exact_radius].sum())


def hard_runners_up(samples: int, first: float, level: float) -> np.ndarray:
    """Probabilities of the runner-up at which a radius that can occur is just too large.

    The wrong certificates are most frequent at one of them, since between them they only change as
    the outcomes' probabilities do.
    """
    _, radius = all_outcomes("published", samples, level, (70, 25, 5))
    just_below = np.unique(radius[radius > 0]) * (1 - 1e-9)
    second = norm.cdf(norm.ppf(first) - 2 * just_below)
    return np.asarray(second[(second >= (1 - first) / 2) & (second < 1 - first)])


# The largest rates found by a search over probabilities and 4 to 80 samples: those with a third
# class too rare to matter, where the published maximum is CERTIFY's radius, and those with a
# runner-up of at most 0.97 and at most 0.9 of the other classes' probability.
HARDEST_FOR_PUBLISHED = [
    (0.05, 9, 0.57076, 0.42903, 0.9988),
    (0.05, 50, 0.94068, 0.05701, 0.9399),
    (0.05, 18, 0.83381, 0.14113, 0.7591),
    (0.001, 13, 0.5872, 0.4116, 0.9869),
    (0.001, 35, 0.81737, 0.17563, 0.8604),
]


@cases(("level", "samples", "first", "second", "found"), HARDEST_FOR_PUBLISHED)
def test_published_rule_holds_its_level_where_it_is_hardest(
    level: float, samples: int, first: float, second: float, found: float
) -> None:
    runners_up = hard_runners_up(samples, first, level)
    second = runners_up[np.abs(runners_up - second).argmin()]
    classes = (first, second, 1 - first - second)
    rate = exact_wrong_rate("published", samples, classes, level)
    assert rate <= level
    assert rate == pytest.approx(found * level, rel=0.001)


def largest_wrong_rate(variant: Variant, samples: int, level: float) -> float:
    """The largest exact rate over many probabilities, where the level is hard to hold."""
    rates = []
    for first in np.linspace(0.51, 0.96, 19):
        runners_up = hard_runners_up(samples, first, level)
        for second in runners_up[:: len(runners_up) // 40 + 1]:
            classes = (first, second, 1 - first - second)
            rates.append(exact_wrong_rate(variant, samples, classes, level))
    return max(rates)


@pytest.mark.parametrize("samples", [9, 18, 40])
def test_no_rule_exceeds_its_level_whatever_the_probabilities(samples: int) -> None:
    for variant in VARIANTS:
        assert largest_wrong_rate(variant, samples, LEVEL) <= LEVEL
    assert largest_wrong_rate("published", samples, LEVEL) > 0.8 * LEVEL
    assert largest_wrong_rate("published", samples, 2 * LEVEL) > 1.5 * LEVEL


@cases(
    "classes",
    [(0.705, 0.295), (0.4, 0.3, 0.3), (0.55, *[0.05] * 9), (0.5, 0.14, 0.13, 0.12, 0.11)],
)
def test_bound_of_the_largest_other_count_needs_no_union(classes: tuple[float, ...]) -> None:
    samples = 200
    counts = np.random.default_rng(5).multinomial(samples, classes, size=REPETITIONS)
    not_runner_up = lower_confidence_bound(samples - counts[:, 1:].max(axis=1), samples, LEVEL)
    assert_sound(float(np.mean(not_runner_up > 1 - max(classes[1:]))))


def tail_bound(tail: Callable[[float], float], level: float, *, increasing: bool) -> float:
    """The p in (0, 1) where a tail probability equals the level."""
    sign = 1 if increasing else -1
    return float(brentq(lambda p: sign * (tail(p) - level), 0.0, 1.0, xtol=1e-14))


def expected_radius(counts: list[int], level: float, *, summed: bool, tenths: int) -> float:
    """The radius of class 0 in units of sigma, from sums of binomial probabilities."""
    samples = sum(counts)
    outcomes = np.arange(samples + 1)

    def upper_tail(p: float) -> float:
        return float(binom.pmf(outcomes[counts[0] :], samples, p).sum())

    def lower_tail(p: float) -> float:
        others = counts[1:] if summed else [max(counts[1:])]
        return sum(float(binom.pmf(outcomes[: k + 1], samples, p).sum()) for k in others)

    p_a = tail_bound(upper_tail, level * tenths / 10, increasing=True)
    p_b = 1.0
    if tenths < 10:
        p_b = tail_bound(lower_tail, level * (10 - tenths) / 10, increasing=False)
    p_b = min(p_b, 1 - p_a)
    return float((norm.ppf(p_a) - norm.ppf(p_b)) / 2) if p_a > 0.5 else 0.0


@cases("counts", [[140, 30, 20, 10], [195, 3, 1, 1], [115, 30, 30, 25], [120, 79, 1, 0]])
def test_radii_are_those_of_direct_binomial_sums(counts: list[int]) -> None:
    estimation = np.array([[*counts, 0]])
    tenths = range(1, 11)

    def radius(variant: Variant) -> float:
        result = two_sided_certificates(estimation, estimation, SIGMA, LEVEL, variant=variant)
        return float(result.radius[0])

    published = max(expected_radius(counts, LEVEL, summed=True, tenths=t) for t in tenths)
    assert radius("published") == pytest.approx(SIGMA * published, rel=1e-5)
    # Selection samples equal to the estimation samples foretell the best share exactly.
    plain = [expected_radius(counts, LEVEL, summed=False, tenths=t) for t in tenths]
    assert radius("preselected") == pytest.approx(SIGMA * max(plain), rel=1e-7)
    split = [expected_radius(counts, LEVEL / 1.9, summed=False, tenths=t) for t in tenths]
    assert radius("grid") == pytest.approx(SIGMA * max(split), rel=1e-7)
    assert radius("preselected") >= radius("published") * (1 - 1e-9)
    assert radius("preselected") > radius("grid")


def test_preselected_share_depends_on_the_selection_samples_alone() -> None:
    selection = np.array([[60, 40, 0, 0], [60, 20, 20, 0], [97, 1, 2, 0]])
    counts = [140, 30, 30]
    result = two_sided_certificates(
        selection, np.array([[*counts, 0]] * 3), SIGMA, LEVEL, variant="preselected"
    )
    radii = [
        SIGMA * expected_radius(counts, LEVEL, summed=False, tenths=tenths)
        for tenths in range(10, 0, -1)
    ]
    # With nothing but two classes all goes to p_A, as in CERTIFY.
    assert result.radius[0] == pytest.approx(radii[0])
    assert result.radius[1] > result.radius[0]
    for radius in result.radius:
        assert np.isclose(radius, radii, rtol=1e-9).any()


COUNTS = st.lists(st.integers(0, 200), min_size=2, max_size=5).filter(
    lambda counts: sum(counts) > 0
)


@given(COUNTS, COUNTS, st.floats(1e-6, 0.5), st.floats(0.01, 2), st.sampled_from(VARIANTS))
def test_radius_grows_with_the_top_count_and_abstentions_have_none(
    counts: list[int],
    selected: list[int],
    failure_probability: float,
    sigma: float,
    variant: Variant,
) -> None:
    classes = min(len(counts), len(selected))
    rows = [[*counts[:classes], 0]]
    # The same samples, but one that fell in another class falls in the selected one.
    candidate = int(np.argmax(selected[:classes]))
    moved = [j for j in range(classes) if j != candidate and counts[j] > 0]
    rows.extend(
        [n + (j == candidate) - (j == other) for j, n in enumerate(rows[0])] for other in moved
    )
    if sum(rows[0]) == 0 or sum(selected[:classes]) == 0:
        return
    result = two_sided_certificates(
        np.array([[*selected[:classes], 0]] * len(rows)),
        np.array(rows),
        sigma,
        failure_probability,
        variant=variant,
    )
    assert result.radius[0] >= 0
    assert np.all(result.radius[1:] >= result.radius[0] * (1 - 1e-5))
    abstains = result.prediction == ABSTAIN
    assert np.all(result.radius[abstains] == 0)
    assert np.all(result.radius[~abstains] > 0)
    assert np.all(result.prediction[~abstains] == candidate)


@given(COUNTS, st.floats(1e-6, 0.5), st.floats(0.01, 2))
def test_published_radius_is_at_least_that_of_certify(
    counts: list[int], failure_probability: float, sigma: float
) -> None:
    row = np.array([[*sorted(counts, reverse=True), 0]])
    published = two_sided_certificates(row, row, sigma, failure_probability, variant="published")
    certify = cohen_certificates(row, row, sigma, failure_probability)
    assert published.radius[0] >= certify.radius[0] * (1 - 1e-15)
    assert published.prediction[0] == certify.prediction[0]


def test_other_variants_are_refused() -> None:
    counts = np.array([[9, 1, 0]])
    with pytest.raises(InputError, match="published, preselected, grid"):
        two_sided_certificates(counts, counts, 0.25, 0.001, variant="best")  # type: ignore[arg-type]
