"""Stage 1 as a whole: what depends on what, computed once wherever it is asked for."""

import dataclasses
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

from decrop.cache import ContentCache
from decrop.classifiers.classifier import Classifier
from decrop.config import BoundarySettings, InterpolationSettings
from decrop.data.limited import LabelledImages
from decrop.synthesis.stage_one import StageOne, stage_one
from tests.decrop.stage_one_processes import BOUNDARY, INTERPOLATION, digest, stage_one_at_once
from tests.decrop.tiny import CPU, labelled, random_images, random_samples, tiny_classifier

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = random_images(10)


@pytest.fixture
def cache(tmp_path: Path) -> ContentCache:
    return ContentCache(tmp_path)


def made(
    cache: ContentCache,
    *,
    classifier: Classifier | None = None,
    limited: LabelledImages | None = None,
    boundary: BoundarySettings = BOUNDARY,
    interpolation: InterpolationSettings = INTERPOLATION,
    seed: int = 0,
) -> StageOne:
    return stage_one(
        classifier or tiny_classifier(),
        limited or labelled(tiny_classifier(), IMAGES),
        boundary,
        interpolation,
        seed=seed,
        cache=cache,
        device=CPU,
    )


def computations(cache: ContentCache) -> tuple[int, int]:
    return cache.computations("boundary"), cache.computations("interpolated")


def same(one: StageOne, other: StageOne) -> bool:
    return all(
        torch.equal(getattr(one, field.name), getattr(other, field.name))
        for field in dataclasses.fields(StageOne)
    )


def test_samples_belong_to_the_limited_images(cache: ContentCache) -> None:
    classifier = tiny_classifier()
    interpolation = INTERPOLATION.model_copy(update={"count": 3})
    samples = made(cache, interpolation=interpolation)
    assert torch.equal(samples.clean, IMAGES.float() / 255)
    assert samples.boundary.shape == samples.clean.shape
    assert samples.interpolated.shape == (3, *samples.clean.shape)
    for images in (samples.boundary, samples.interpolated):
        assert images.dtype == torch.float32
        assert images.min() >= 0 and images.max() <= 1
    assert (samples.boundary - samples.clean).abs().max() <= BOUNDARY.epsilon + 1e-7
    changed = classifier(samples.clean).argmax(1) != classifier(samples.boundary).argmax(1)
    assert torch.equal(samples.flipped, changed)
    assert samples.flip_rate == pytest.approx(changed.float().mean().item())
    # In steps of 0.001 no sample leaves its own image for another's.
    assert (samples.interpolated - samples.clean).abs().max() < 0.02


@pytest.mark.parametrize("count", [1, 3])
def test_interpolated_logits_lie_between_those_of_image_and_boundary_sample(
    cache: ContentCache, count: int
) -> None:
    classifier = tiny_classifier()
    interpolation = InterpolationSettings(mixing_coefficient=0.8, count=count, steps=400)
    samples = made(cache, interpolation=interpolation)
    clean, boundary = classifier(samples.clean), classifier(samples.boundary)
    coefficients = {1: [0.8], 3: [0.4, 0.8, 0.9]}[count]
    for coefficient, interpolated in zip(coefficients, samples.interpolated, strict=True):
        expected = coefficient * clean + (1 - coefficient) * boundary
        error = (classifier(interpolated) - expected).square().mean()
        assert error < 0.01 * (boundary - clean).square().mean()


def test_equal_settings_are_computed_once(cache: ContentCache, tmp_path: Path) -> None:
    first = made(cache)
    assert same(made(ContentCache(tmp_path)), first)
    assert computations(cache) == (1, 1)
    assert same(made(ContentCache(tmp_path / "other")), first)


def test_processes_compute_it_once_at_the_same_moment(cache: ContentCache, tmp_path: Path) -> None:
    spawn = get_context("spawn")
    barrier = spawn.Barrier(2)
    other = spawn.Process(target=stage_one_at_once, args=(barrier, tmp_path, "other"))
    other.start()
    stage_one_at_once(barrier, tmp_path, "own")
    other.join(120)
    assert other.exitcode == 0
    assert (tmp_path / "own").read_text() == (tmp_path / "other").read_text()
    assert digest(made(cache)) == (tmp_path / "own").read_text()
    assert computations(cache) == (1, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 0.2},
        {"step_size": 0.01},
        {"steps": 6},
    ],
)
def test_other_attack_is_another_entry(cache: ContentCache, change: dict[str, Any]) -> None:
    first = made(cache)
    other = made(cache, boundary=BOUNDARY.model_copy(update=change))
    assert computations(cache) == (2, 2)
    assert not torch.equal(first.boundary, other.boundary)
    assert not torch.equal(first.interpolated, other.interpolated)


@pytest.mark.parametrize(
    "change",
    [
        {"mixing_coefficient": 0.25},
        {"steps": 6},
        {"learning_rate": 0.002},
        {"mode": "published"},
        {"count": 2},
    ],
)
def test_other_interpolation_shares_the_boundary_samples(
    cache: ContentCache, change: dict[str, Any]
) -> None:
    first = made(cache)
    other = made(cache, interpolation=INTERPOLATION.model_copy(update=change))
    assert computations(cache) == (1, 2)
    assert torch.equal(first.boundary, other.boundary)
    assert torch.equal(first.flipped, other.flipped)
    assert not torch.equal(first.interpolated, other.interpolated)


def test_what_to_do_about_failures_changes_no_entry(cache: ContentCache) -> None:
    first = made(cache)
    assert same(made(cache, boundary=BOUNDARY.model_copy(update={"on_failure": "drop"})), first)
    assert computations(cache) == (1, 1)


def test_other_classifier_is_another_entry(cache: ContentCache) -> None:
    limited = labelled(tiny_classifier(), IMAGES)
    made(cache, limited=limited)
    changed = tiny_classifier()
    weight = changed.network.get_parameter("3.weight")
    with torch.no_grad():
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    made(cache, classifier=changed, limited=limited)
    assert computations(cache) == (2, 2)
    standardised = Classifier(
        tiny_classifier().network, architecture="tiny", mean=(0.5,), std=(0.2,), class_count=4
    )
    made(cache, classifier=standardised, limited=limited)
    assert computations(cache) == (3, 3)


def test_other_data_or_seed_is_another_entry(cache: ContentCache) -> None:
    limited = labelled(tiny_classifier(), IMAGES)
    made(cache, limited=limited)
    images = IMAGES.clone()
    images[0, 0, 0, 0] += 1
    made(cache, limited=dataclasses.replace(limited, images=images))
    assert computations(cache) == (2, 2)
    made(cache, limited=dataclasses.replace(limited, labels=(limited.labels + 1) % 4))
    assert computations(cache) == (3, 3)
    made(cache, seed=1)
    assert computations(cache) == (4, 4)


def test_position_in_the_split_is_no_part_of_the_content(cache: ContentCache) -> None:
    limited = labelled(tiny_classifier(), IMAGES)
    made(cache, limited=limited)
    made(cache, limited=dataclasses.replace(limited, indices=limited.indices + 5))
    assert computations(cache) == (1, 1)


def test_subset_keeps_the_samples_of_an_image_together() -> None:
    samples = random_samples(6, interpolated=2)
    part = samples.subset(torch.tensor([True, False, True, True, False, False]))
    rows = [0, 2, 3]
    assert torch.equal(part.clean, samples.clean[rows])
    assert torch.equal(part.boundary, samples.boundary[rows])
    assert torch.equal(part.interpolated, samples.interpolated[:, rows])
    assert part.flipped.tolist() == [False, True, False]
    assert part.flip_rate == pytest.approx(1 / 3)
