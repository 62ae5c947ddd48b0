from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from decrop.smoothing.certificates import Floats
from decrop.smoothing.sequential import look_schedule, sequential_design
from decrop.smoothing.worth import worth_of_radii, worthwhile

RADII = np.array([0.0, 0.25, 0.5, 0.75])
DESIGN = sequential_design(RADII, 0.25, 0.001, look_schedule(20_000, 50))
LOOK = 9
TAKEN = int(DESIGN.looks[LOOK])


def asked(
    other_samples: list[int], reached: int | list[int], worth: Floats | None = None, **changes: Any
) -> tuple[NDArray[np.bool_], Floats]:
    """Ask about images whose selection samples all fell to the candidate."""
    others = np.array(other_samples)
    arguments: dict[str, Any] = {
        "other_samples": others,
        "reached": np.broadcast_to(reached, others.shape),
        "worth": worth_of_radii(RADII, 0.25) if worth is None else worth,
        "known_samples": np.full(len(others), TAKEN + 100),
        "known_other_samples": others,
        **changes,
    }
    return worthwhile(DESIGN, LOOK, **arguments)


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


def test_what_is_worth_more_is_sampled_for_longer() -> None:
    others = list(range(0, 501))
    numbers = [
        int(asked(others, 1, np.full(len(RADII), worth))[0].sum())
        for worth in (0.0, 0.02, 0.1, 5.0, 500.0)
    ]
    assert numbers[0] == 0
    assert numbers == sorted(set(numbers))


def test_the_worth_is_that_of_the_next_radius() -> None:
    worth = np.array([0.0, 5.0, 0.0, 0.0])
    going_on, _ = asked([20, 20], [1, 0], worth)
    assert going_on.tolist() == [True, False]


def test_no_radius_is_pursued_that_the_samples_left_cannot_reach() -> None:
    last = len(DESIGN.looks) - 2
    tolerated = int(DESIGN.limits[1, -1])
    others = np.array([tolerated, tolerated + 1])
    going_on, _ = worthwhile(
        DESIGN,
        last,
        other_samples=others,
        reached=np.array([1, 1]),
        worth=np.full(len(RADII), 1e9),
        known_samples=np.full(2, int(DESIGN.looks[last]) + 100),
        known_other_samples=others,
    )
    assert not going_on[1]


def test_images_do_not_influence_one_another() -> None:
    others = [0, 40, 60, 70, 80, 90, 160]
    together, samples = asked(others, 1)
    for number, other in enumerate(others):
        alone, samples_alone = asked([other], 1)
        assert alone[0] == together[number]
        assert samples_alone[0] == pytest.approx(samples[number])
    assert asked(others[::-1], 1)[0].tolist() == together[::-1].tolist()


def test_samples_that_are_expected_lie_between_the_next_look_and_the_last() -> None:
    going_on, samples = asked(list(range(0, 100, 5)), 1)
    assert going_on.any()
    assert (samples > 0).all()
    assert (samples <= DESIGN.looks[-1] - TAKEN).all()
    # Nearer to the radius takes longer.
    assert samples[15] > samples[0]


def test_worth_follows_the_error_of_the_radius_that_samples_estimate() -> None:
    generator = np.random.default_rng(0)
    samples = 1_000_000
    for radius, worth in zip(RADII, worth_of_radii(RADII, 0.25), strict=True):
        shares = generator.binomial(samples, norm.cdf(radius / 0.25), 4_000) / samples
        errors = norm.ppf(shares) * np.sqrt(samples)
        assert errors.std() == pytest.approx(
            worth / worth_of_radii(RADII, 0.25)[0] * 1.2533, rel=0.06
        )


def test_worth_of_unreachable_radii_is_finite() -> None:
    worth = worth_of_radii(np.array([1.0, 10.0, 1_000.0]), 0.1)
    assert np.isfinite(worth).all()
    assert (np.diff(worth) >= 0).all()
