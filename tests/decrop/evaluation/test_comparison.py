import itertools

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar

from decrop.errors import InputError
from decrop.evaluation.comparison import holm_adjusted, paired_difference, paired_p_values


def paired(
    both: int, only_first: int, only_second: int, neither: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return two bool [1, B] with the given numbers of images."""
    counts = [both, only_first, only_second, neither]
    return (
        np.repeat([True, True, False, False], counts)[None],
        np.repeat([True, False, True, False], counts)[None],
    )


def test_each_radius_has_its_own_test() -> None:
    rows = [paired(30, 8, 1, 11), paired(50, 0, 0, 0), paired(10, 20, 20, 0)]
    first, second = (np.concatenate(part) for part in zip(*rows, strict=True))
    assert paired_p_values(first, second) == pytest.approx([20 / 512, 1, 1])
    assert paired_difference(first, second).points.tolist() == [14.0, 0.0, 0.0]


def test_the_paired_test_of_single_runs_is_the_one_of_statsmodels() -> None:
    for only_first, only_second in ((0, 0), (0, 5), (7, 2), (40, 61), (250, 240)):
        expected = mcnemar([[0, only_first], [only_second, 0]], exact=True).pvalue
        pair = paired(3, only_first, only_second, 4)
        assert paired_p_values(*pair) == pytest.approx([expected])


def test_the_paired_test_of_several_runs_tries_all_signs() -> None:
    differences = np.array([3, 1, -2, 0, 1, 3, 0, -1])
    second = np.array([0, 2, 3, 1, 0, 0, 3, 1])
    signs = np.array(list(itertools.product([-1, 1], repeat=len(differences))))
    expected = (np.abs(signs @ differences) >= abs(differences.sum())).mean()
    pair = (second + differences)[None], second[None]
    assert paired_p_values(*pair) == pytest.approx([expected])
    assert paired_p_values(*reversed(pair)) == pytest.approx([expected])


def _certified_of_three(generator: np.random.Generator, tests: int) -> tuple[np.ndarray, ...]:
    """Draw how often of 3 runs 100 images are certified, equally hard to both for each image."""
    hardness = generator.beta(0.3, 0.3, size=(tests, 100))
    return generator.binomial(3, hardness), generator.binomial(3, hardness)


def test_runs_on_the_same_images_are_not_taken_for_more_images() -> None:
    first, second = _certified_of_three(np.random.default_rng(2), 2_000)
    assert 0.01 < (paired_p_values(first, second) <= 0.05).mean() <= 0.06
    # One of two denoisers differs on half of the images, the same in each of 20 runs.
    outcome = np.random.default_rng(3).choice([-20, 0, 20], p=[0.25, 0.5, 0.25], size=(2_000, 100))
    pair = np.maximum(outcome, 0), np.maximum(-outcome, 0)
    assert (paired_p_values(*pair) <= 0.05).mean() <= 0.06
    interval = paired_difference(*pair, runs=20)
    assert ((interval.low <= 0) & (interval.high >= 0)).mean() == pytest.approx(0.95, abs=0.02)


def test_equal_runs_give_the_difference_of_one() -> None:
    first, second = paired(40, 18, 8, 32)
    one, three = paired_difference(first, second), paired_difference(3 * first, 3 * second, runs=3)
    for field in ("points", "low", "high"):
        assert getattr(three, field) == pytest.approx(getattr(one, field))
    assert paired_p_values(3 * first, 3 * second) == pytest.approx(paired_p_values(first, second))


def test_holm_multiplies_the_least_most_and_keeps_the_order() -> None:
    assert holm_adjusted([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm_adjusted([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert holm_adjusted([]).tolist() == []


def test_paired_difference_by_hand() -> None:
    result = paired_difference(*paired(40, 18, 8, 32))
    # p = 19/100 and q = 9/100 with two images added, z = 1.959964.
    half_width = 1.959964 * np.sqrt((0.28 - 0.01) / 100)
    assert result.points == pytest.approx([100 * 10 / 98])
    assert result.low == pytest.approx([100 * (0.1 - half_width)])
    assert result.high == pytest.approx([100 * (0.1 + half_width)])


def test_paired_difference_is_antisymmetric_and_bounded() -> None:
    forward = paired_difference(*paired(0, 3, 0, 0))
    backward = paired_difference(*paired(0, 0, 3, 0))
    assert forward.points.tolist() == [100.0]
    assert forward.high.tolist() == [100.0]
    assert backward.low.tolist() == [-100.0]
    assert backward.high == pytest.approx(-forward.low)


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("agreement", [0.9, 0.5])
def test_paired_interval_covers_the_true_difference_as_often_as_it_says(
    level: float, agreement: float
) -> None:
    generator = np.random.default_rng(1)
    only_first, only_second = (1 - agreement) * 0.7, (1 - agreement) * 0.3
    outcome = generator.choice(
        4, p=[agreement / 2, only_first, only_second, agreement / 2], size=(8_000, 200)
    )
    result = paired_difference(outcome <= 1, (outcome == 0) | (outcome == 2), level)
    truth = 100 * (only_first - only_second)
    coverage = ((result.low <= truth) & (truth <= result.high)).mean()
    assert coverage == pytest.approx(level, abs=0.02)


def test_different_images_are_refused() -> None:
    first, second = paired(1, 1, 1, 1)
    for other in (second[:, :3], second[0], np.zeros((2, 4), dtype=bool)):
        with pytest.raises(InputError, match="same images"):
            paired_p_values(first, other)
        with pytest.raises(InputError, match="same images"):
            paired_difference(first, other)
