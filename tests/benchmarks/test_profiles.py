"""Virtual images have the certified accuracies that they stand for."""

import numpy as np
import pytest
from scipy.stats import norm

from tests.benchmarks.profiles import PROFILES, RADII, SIGMA, Profile, virtual_images
from tests.cases import cases

COUNT = 20_000
ONE_IMAGE = 1 / COUNT


@cases("profile", PROFILES)
def test_certified_accuracies_are_those_of_the_profile(profile: Profile) -> None:
    probabilities, labels = virtual_images(profile, COUNT, seed=0)
    assert probabilities.shape == (COUNT, 10) and (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    top = probabilities.max(axis=1)
    # With draws without end: radius sigma * ppf(p) of the likeliest class where p > 1/2.
    radius = np.where(top > 0.5, SIGMA * norm.ppf(top), -1)
    correct = probabilities.argmax(axis=1) == labels
    for asked, accuracy in zip(RADII, profile.certified_accuracy, strict=True):
        found = float((correct & (radius >= asked)).mean())
        assert found == pytest.approx(accuracy, abs=1.5 * ONE_IMAGE)
    # Those radii go on to the largest, and no further.
    assert 0.95 * profile.largest_radius < radius[correct].max() <= profile.largest_radius
    wrong = ~correct & (radius >= 0)
    assert float(wrong.mean()) == pytest.approx(profile.misclassified, abs=1.5 * ONE_IMAGE)
    # Of the images certified for a wrong class, as large a share at 0.7 times each radius.
    for asked, accuracy in zip(RADII, profile.certified_accuracy, strict=True):
        share = float((radius[wrong] >= 0.7 * asked).mean())
        assert share == pytest.approx(accuracy / profile.certified_accuracy[0], abs=0.03)


@cases("profile", PROFILES)
def test_what_is_drawn_by_chance_depends_on_the_seed(profile: Profile) -> None:
    one, again, other = (virtual_images(profile, 1_000, seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
