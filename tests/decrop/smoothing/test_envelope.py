"""The envelope: the largest certificate of several is wrong no more often than allowed."""

import numpy as np
import pytest
from scipy.stats import norm

from decrop.errors import InputError
from decrop.smoothing.certificates import ABSTAIN, Certificates, cohen_certificates
from decrop.smoothing.envelope import largest_certificates, split_failure_probability
from tests.cases import cases
from tests.decrop.smoothing.soundness import (
    LEVEL,
    MOST_WRONG,
    REPETITIONS,
    SELECTION_SAMPLES,
    Classifier,
    assert_sound,
    share_of_wrong_certificates,
)

SIGMAS = (0.2, 0.25, 0.3)
# Of equal exact radii at all sigmas the largest certified one is likeliest to be wrong.
EXACT_RADII = {"no certificate is right": 0.0, "sharp": 0.2 * norm.ppf(0.705), "easy": 0.4}


def largest(exact_radius: float, level: float) -> Certificates:
    """Certify at each sigma with fresh samples, and take the largest of each repetition."""
    generator = np.random.default_rng(17)
    certificates = []
    for sigma in SIGMAS:
        top = float(norm.cdf(exact_radius / sigma))
        classifier = Classifier((top, 1 - top))
        selection = classifier.sample(SELECTION_SAMPLES, generator)
        estimation = classifier.sample(200, generator)
        certificates.append(cohen_certificates(selection, estimation, sigma, level))
    chosen = largest_certificates([(one.prediction, one.radius) for one in certificates])
    assert (chosen >= 0).any()
    rows = chosen, np.arange(REPETITIONS)
    return Certificates(
        prediction=np.stack([one.prediction for one in certificates])[rows],
        radius=np.stack([one.radius for one in certificates])[rows],
    )


@cases("exact_radius", EXACT_RADII.values())
def test_the_largest_certificate_is_wrong_no_more_often_than_allowed(exact_radius: float) -> None:
    level = split_failure_probability(LEVEL, len(SIGMAS))
    assert_sound(share_of_wrong_certificates(largest(exact_radius, level), exact_radius))


def test_the_whole_failure_probability_at_each_sigma_is_caught() -> None:
    exact_radius = EXACT_RADII["sharp"]
    assert share_of_wrong_certificates(largest(exact_radius, LEVEL), exact_radius) > MOST_WRONG


def test_the_largest_radius_is_taken_whatever_its_class() -> None:
    predictions = np.array([[3, ABSTAIN, ABSTAIN, 2, 5], [7, 1, ABSTAIN, 2, ABSTAIN]])
    radii = np.array([[0.1, 0.0, 0.0, 0.3, 0.2], [0.2, 0.05, 0.0, 0.3, 0.0]])
    chosen = largest_certificates(list(zip(predictions, radii, strict=True)))
    assert chosen.tolist() == [1, 1, -1, 0, 0]


def test_levels_are_checked() -> None:
    assert split_failure_probability(0.001, 4) == 0.00025
    with pytest.raises(InputError, match="parts"):
        split_failure_probability(0.001, 0)
    with pytest.raises(InputError, match="failure_probability"):
        split_failure_probability(1.5, 2)
