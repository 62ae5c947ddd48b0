"""The embedding keeps neighbours together, and equal arguments give equal points."""

import numpy as np
import pytest

from decrop.errors import InputError
from decrop.evaluation.sample_figures import t_sne
from tests.cases import cases


def two_clusters(each: int) -> np.ndarray:
    draws = np.random.default_rng(0).normal(size=(2, each, 6))
    draws[1] += 30
    return draws.reshape(2 * each, 6)


def test_equal_arguments_give_equal_points_whatever_was_drawn_before() -> None:
    features = two_clusters(10)
    first = t_sne(features, seed=3)
    np.random.seed(5)
    assert np.array_equal(t_sne(features, seed=3), first)
    assert first.shape == (20, 2)
    assert first.dtype == np.float64


def test_clusters_stay_apart() -> None:
    points = t_sne(two_clusters(10), seed=2**62)
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert ((distances.argmin(1) < 10) == (np.arange(20) < 10)).all()


@pytest.mark.parametrize("points", [3, 4])
def test_few_points_can_be_embedded(points: int) -> None:
    features = np.random.default_rng(1).normal(size=(points, 5))
    assert np.isfinite(t_sne(features, seed=0)).all()


def test_equal_features_are_one_point() -> None:
    assert not t_sne(np.ones((5, 4)), seed=0).any()


@cases("shape", [(2, 4), (5, 1), (5,), (2, 3, 4)])
def test_too_few_points_or_features_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="at least 3 points of 2 features"):
        t_sne(np.zeros(shape), seed=0)
