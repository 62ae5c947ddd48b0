import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import beta, binom, norm

from decrop.errors import InputError
from decrop.smoothing.sequential import SequentialDesign, look_schedule, sequential_design
from tests.cases import cases

SIGMA = 0.25


def probability_of_success(
    limits: NDArray[np.int64], looks: NDArray[np.int64], other_probability: float
) -> float:
    """Sum over paths sample by sample, unlike the design, which goes from look to look."""
    tolerated = dict(zip(looks.tolist(), limits.tolist(), strict=True))
    sampling, succeeded = np.zeros(looks[-1] + 2), 0.0
    sampling[0] = 1.0
    for sample in range(1, looks[-1] + 1):
        sampling[1:] = sampling[1:] * (1 - other_probability) + sampling[:-1] * other_probability
        sampling[0] *= 1 - other_probability
        if sample in tolerated:
            end = tolerated[sample] + 1
            succeeded += float(sampling[:end].sum())
            sampling[:end] = 0.0
    return succeeded


def design_of(
    radius: float, failure_probability: float, looks: NDArray[np.int64]
) -> SequentialDesign:
    return sequential_design(np.array([radius]), SIGMA, failure_probability, looks)


def clopper_pearson_limits(
    radius: float, failure_probability: float, looks: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return what looking naively tolerates: each look has the whole failure probability."""
    threshold = norm.cdf(radius / SIGMA)
    limits = []
    for look in looks:
        others = np.arange(look)
        bound = beta.ppf(failure_probability, look - others, others + 1)
        limits.append(int((bound > threshold).sum()) - 1)
    return np.array(limits)


@cases(
    ("max_samples", "chunk_size", "looks"),
    [
        (1, 50, [1]),
        (50, 50, [50]),
        (120, 50, [50, 100, 120]),
        (12, 1, [*range(1, 13)]),
        (2_250, 50, [*range(50, 2_001, 50), 2_100, 2_200, 2_250]),
    ],
)
def test_looks_are_multiples_of_the_chunk_size(
    max_samples: int, chunk_size: int, looks: list[int]
) -> None:
    assert look_schedule(max_samples, chunk_size).tolist() == looks


@given(st.integers(1, 200_000), st.integers(1, 500))
def test_looks_grow_slowly_and_end_with_the_most_samples(max_samples: int, chunk_size: int) -> None:
    looks = look_schedule(max_samples, chunk_size)
    assert looks[-1] == max_samples
    assert looks[0] == min(chunk_size, max_samples)
    steps = np.diff(looks)
    assert (steps > 0).all()
    assert (steps <= np.maximum(chunk_size, looks[:-1] / 20)).all()


@pytest.mark.parametrize("failure_probability", [0.05, 0.001])
@pytest.mark.parametrize("radius", [0.0, 0.1, 0.25, 0.5])
@pytest.mark.parametrize(("most", "chunk"), [(37, 1), (400, 25), (3_000, 50)])
def test_all_looks_together_spend_the_failure_probability_and_no_more(
    failure_probability: float, radius: float, most: int, chunk: int
) -> None:
    looks = look_schedule(most, chunk)
    (limits,) = design_of(radius, failure_probability, looks).limits
    other = float(norm.sf(radius / SIGMA))
    spent = probability_of_success(limits, looks, other)
    assert spent <= failure_probability
    more = limits.copy()
    more[-1] += 1
    # No look could tolerate another sample: the last one takes all that is left.
    assert probability_of_success(more, looks, other) > failure_probability


def test_the_smallest_failure_probability_is_kept_and_smaller_ones_are_refused() -> None:
    looks = look_schedule(3_000, 50)
    (limits,) = design_of(0.1, 1e-12, looks).limits
    spent = probability_of_success(limits, looks, float(norm.sf(0.1 / SIGMA)))
    assert 0.9e-12 < spent <= 1e-12
    with pytest.raises(InputError, match=r"failure_probability 1e-40 must be at least"):
        design_of(0.1, 1e-40, looks)


@pytest.mark.filterwarnings("error")
def test_radii_that_no_samples_reach_are_never_certified() -> None:
    looks = look_schedule(400, 50)
    design = sequential_design(np.array([0.0, 0.25, 0.5]), 0.001, 0.001, looks)
    assert (design.limits[1:] == -1).all()
    assert design.limits[0, -1] > 0


@pytest.mark.parametrize("radius", [0.0, 0.25])
def test_the_test_is_safe_for_every_smaller_probability(radius: float) -> None:
    looks = look_schedule(500, 50)
    (limits,) = design_of(radius, 0.05, looks).limits
    other = float(norm.sf(radius / SIGMA))
    spent = [
        probability_of_success(limits, looks, probability)
        for probability in np.linspace(other, 1, 20)
    ]
    assert max(spent) <= 0.05
    assert (np.diff(spent) <= 1e-15).all()


def test_paths_are_counted_right_where_all_can_be_listed() -> None:
    looks = np.array([4, 7, 12])
    (limits,) = design_of(0.05, 0.2, looks).limits
    other = float(norm.sf(0.05 / SIGMA))
    listed = 0.0
    for path in itertools.product([0, 1], repeat=12):
        others = np.cumsum(path)[looks - 1]
        if (others <= limits).any():
            listed += other ** sum(path) * (1 - other) ** (12 - sum(path))
    assert listed <= 0.2
    assert listed == pytest.approx(probability_of_success(limits, looks, other), rel=1e-12)


@pytest.mark.parametrize("radius", [0.0, 0.25, 0.5])
def test_looking_naively_would_fail_more_often(radius: float) -> None:
    looks = look_schedule(3_000, 50)
    naive = clopper_pearson_limits(radius, 0.05, looks)
    assert probability_of_success(naive, looks, float(norm.sf(radius / SIGMA))) > 0.1


@pytest.mark.parametrize("radius", [0.0, 0.25, 0.5])
def test_twice_the_level_would_fail_more_often(radius: float) -> None:
    looks = look_schedule(3_000, 50)
    (limits,) = design_of(radius, 0.1, looks).limits
    assert probability_of_success(limits, looks, float(norm.sf(radius / SIGMA))) > 0.07


@pytest.mark.parametrize("radius", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("most", [700, 20_000])
def test_one_look_is_the_exact_binomial_test(radius: float, most: int) -> None:
    (limits,) = design_of(radius, 0.001, np.array([most])).limits
    assert limits == clopper_pearson_limits(radius, 0.001, np.array([most]))
    other = norm.sf(radius / SIGMA)
    assert binom.cdf(limits[0], most, other) <= 0.001 < binom.cdf(limits[0] + 1, most, other)


@cases("radius", [0.0, 0.25, 0.5, 0.75])
def test_looking_often_costs_little(radius: float) -> None:
    """The last look tolerates nearly as many samples as a single one would."""
    looks = look_schedule(20_000, 50)
    (limits,) = design_of(radius, 0.001, looks).limits
    single = clopper_pearson_limits(radius, 0.001, looks[-1:])[0]
    other = norm.sf(radius / SIGMA)
    spread = np.sqrt(20_000 * other * (1 - other))
    assert single - limits[-1] < 1.1 * spread


def test_larger_radii_tolerate_fewer_other_samples() -> None:
    design = sequential_design(
        np.array([0.0, 0.1, 0.25, 0.5, 0.9]), SIGMA, 0.001, look_schedule(5_000, 50)
    )
    assert design.limits.shape == (5, len(design.looks))
    assert (np.diff(design.limits, axis=0) <= 0).all()
    # 0.9 = 3.6 sigma needs more than 5,000 samples even if all are of one class.
    assert (design.limits[-1] == -1).all()


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 1), st.floats(1e-6, 0.3), st.integers(1, 600), st.integers(1, 100))
def test_no_design_spends_more_than_the_failure_probability(
    radius: float, failure_probability: float, most: int, chunk: int
) -> None:
    looks = look_schedule(most, chunk)
    (limits,) = design_of(radius, failure_probability, looks).limits
    assert (limits < looks).all()
    other = float(norm.sf(radius / SIGMA))
    assert probability_of_success(limits, looks, other) <= failure_probability


@cases(
    ("radii", "sigma", "failure_probability", "looks", "message"),
    [
        ([-0.1, 0.2], SIGMA, 0.001, [10], "radii"),
        ([0.2, 0.2], SIGMA, 0.001, [10], "radii"),
        ([], SIGMA, 0.001, [10], "radii"),
        ([0.2], 0.0, 0.001, [10], "sigma"),
        ([0.2], SIGMA, 0.0, [10], "failure_probability"),
        ([0.2], SIGMA, 1.0, [10], "failure_probability"),
        ([0.2], SIGMA, 0.001, [], "looks"),
        ([0.2], SIGMA, 0.001, [0, 10], "looks"),
        ([0.2], SIGMA, 0.001, [10, 10], "looks"),
    ],
)
def test_bad_values_are_named(
    radii: list[float],
    sigma: float,
    failure_probability: float,
    looks: list[int],
    message: str,
) -> None:
    with pytest.raises(InputError, match=message):
        sequential_design(np.array(radii), sigma, failure_probability, np.array(looks))


@pytest.mark.parametrize(("most", "chunk"), [(0, 1), (1, 0)])
def test_there_is_a_sample_to_look_at(most: int, chunk: int) -> None:
    with pytest.raises(InputError, match="at least 1"):
        look_schedule(most, chunk)
