from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from decrop.smoothing.certificates import Floats, Integers
from decrop.smoothing.sequential import look_schedule, sequential_design
from decrop.smoothing.worth import GIVEN_UP, patience_of_radii, worthwhile
from tests.cases import slow_but

SIGMA = 0.25
RADII = np.array([0.0, 0.25, 0.5, 0.75])
SELECTION_SAMPLES = 100
DESIGN = sequential_design(RADII, SIGMA, 0.001, look_schedule(20_000, 50))
LOOK = 9
TAKEN = int(DESIGN.looks[LOOK])
PATIENCE = np.full(len(RADII), 1_000.0)


def asked(
    other_samples: list[int], reached: int | list[int], **changes: Any
) -> tuple[NDArray[np.bool_], Integers]:
    """Ask about images whose selection samples all fell to the candidate."""
    others = np.array(other_samples)
    arguments: dict[str, Any] = {
        "patience": PATIENCE,
        "reached": np.broadcast_to(reached, others.shape),
        "other_samples": others,
        "known_samples": TAKEN + SELECTION_SAMPLES,
        "known_other_samples": others,
        **changes,
    }
    return worthwhile(DESIGN, LOOK, **arguments)


def patience(radii_of_images: Floats, given_up: float = GIVEN_UP, seed: int = 0) -> Floats:
    """Return the patience where images have these radii."""
    others = np.random.default_rng(seed).binomial(
        SELECTION_SAMPLES, norm.sf(radii_of_images / SIGMA)
    )
    return patience_of_radii(
        DESIGN,
        given_up=np.full(len(RADII), given_up),
        samples=SELECTION_SAMPLES,
        other_samples=others,
    )


def test_an_image_far_from_the_next_radius_is_given_up() -> None:
    # Of 500 samples: Phi(1) = 0.84 is needed for the radius 0.25.
    others = [0, 40, 80, 160, 250, 500]
    going_on, _ = asked(others, 1)
    assert going_on.tolist() == [True, True, True, False, False, False]


def test_more_other_samples_are_never_worth_more() -> None:
    going_on, _ = asked(list(range(0, 501)), 1)
    assert going_on[0]
    assert not going_on[-1]
    assert (np.diff(going_on.astype(int)) <= 0).all()


def test_patience_samples_for_longer() -> None:
    others = list(range(0, 501))
    numbers = [
        int(asked(others, 1, patience=np.full(len(RADII), samples))[0].sum())
        for samples in (1e-300, 10.0, 1_000.0, 1e5, 1e7)
    ]
    assert numbers[0] == 0
    assert numbers == sorted(set(numbers))


def test_an_image_goes_on_for_a_radius_beyond_the_next_but_not_for_one_that_it_has() -> None:
    for_the_last = np.array([1e-300, 1e-300, 1e-300, 1e5])
    assert asked([0, 250], 1, patience=for_the_last)[0].tolist() == [True, False]
    for_the_first = for_the_last[::-1]
    assert asked([100, 100], [0, 1], patience=for_the_first)[0].tolist() == [True, False]


def test_no_radius_is_pursued_that_the_samples_left_cannot_reach() -> None:
    last = len(DESIGN.looks) - 2
    tolerated = int(DESIGN.limits[1, -1])
    going_on, _ = worthwhile(
        DESIGN,
        last,
        patience=np.full(len(RADII), 1e300),
        reached=np.array([1, 1]),
        other_samples=np.array([tolerated, tolerated + 1]),
        known_samples=int(DESIGN.looks[last]) + SELECTION_SAMPLES,
        known_other_samples=np.array([tolerated, tolerated + 1]),
    )
    assert going_on.tolist() == [True, False]


def test_images_do_not_influence_one_another() -> None:
    others = [0, 40, 60, 70, 80, 90, 160]
    together, samples = asked(others, 1)
    for number, other in enumerate(others):
        alone, samples_alone = asked([other], 1)
        assert alone[0] == together[number]
        assert samples_alone[0] == samples[number]
    assert asked(others[::-1], 1)[0].tolist() == together[::-1].tolist()


def test_samples_that_are_expected_lie_between_the_next_look_and_the_last() -> None:
    going_on, samples = asked(list(range(0, 100, 5)), 1)
    assert going_on.any()
    assert (samples > 0).all()
    assert (samples <= DESIGN.looks[-1] - TAKEN).all()
    # Nearer to the radius takes longer, up to where it is given up.
    assert samples[12] > samples[0]
    # With no sample of other classes the next look certifies.
    assert samples[0] == DESIGN.looks[LOOK + 1] - TAKEN


def test_where_more_images_lie_and_fewer_may_be_given_up_there_is_more_patience() -> None:
    generator = np.random.default_rng(1)
    around_half = patience(generator.uniform(0.35, 0.65, 1_000))
    spread = patience(generator.uniform(0.0, 1.0, 1_000))
    assert around_half[2] > 1.1 * spread[2]
    assert around_half[0] < spread[0] / 2
    assert (patience(generator.uniform(0.0, 1.0, 1_000), given_up=0.01) < spread).all()


def test_a_single_image_is_no_reason_to_give_up_at_once() -> None:
    for radius in (0.1, 1.0):
        for samples in patience(np.array([radius])):
            assert samples > 50


@pytest.mark.parametrize("seed", slow_but(range(3), 0))
def test_as_many_images_near_the_radius_are_given_up_as_may_be(seed: int) -> None:
    """Of images just beyond 0.25 about as many as allowed lack it that the most samples give it."""
    generator = np.random.default_rng(seed)
    count = 20_000
    radius = generator.uniform(0.0, 0.5, count)
    other = norm.sf(radius / SIGMA)
    selected = generator.binomial(SELECTION_SAMPLES, other)
    settings = {"samples": SELECTION_SAMPLES, "other_samples": selected}
    allowed = 0.01
    of_radii = patience_of_radii(DESIGN, given_up=np.full(len(RADII), allowed), **settings)
    others, taken = np.zeros(count, dtype=np.int64), 0
    going_on, has, could = np.ones(count, dtype=bool), np.zeros(count, dtype=bool), None
    for number, look in enumerate(DESIGN.looks.tolist()):
        others += generator.binomial(look - taken, other)
        taken = look
        succeeds = others <= DESIGN.limits[1, number]
        could = succeeds if could is None else could | succeeds
        has |= going_on & succeeds
        if number < len(DESIGN.looks) - 1:
            only = np.array([1e-300, of_radii[1], 1e-300, 1e-300])
            going_on &= worthwhile(
                DESIGN,
                number,
                patience=only,
                reached=np.ones(count, dtype=np.int64),
                other_samples=others,
                known_samples=look + SELECTION_SAMPLES,
                known_other_samples=others + selected,
            )[0]
    assert could is not None
    lost = (could & ~has).mean()
    assert allowed / 3 < lost < 2 * allowed


@pytest.mark.filterwarnings("error")
def test_radii_that_no_samples_reach_are_given_up() -> None:
    design = sequential_design(np.array([0.0, 1.0, 1_000.0]), 0.1, 0.001, look_schedule(500, 50))
    others = np.array([0, 1])
    of_radii = patience_of_radii(
        design, given_up=np.full(3, GIVEN_UP), samples=50, other_samples=others
    )
    assert np.isfinite(of_radii).all() and (of_radii > 0).all()
    going_on, _ = worthwhile(
        design,
        0,
        patience=of_radii,
        reached=np.array([1, 1]),
        other_samples=others,
        known_samples=100,
        known_other_samples=2 * others,
    )
    assert not going_on.any()
