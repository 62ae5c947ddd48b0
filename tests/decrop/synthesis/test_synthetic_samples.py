"""Stage 1 as a whole: what depends on what, computed once wherever it is asked for."""

import dataclasses
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

from decrop.cache import ContentCache
from decrop.classifiers.classifier import Classifier
from decrop.config import BoundarySettings, InterpolationSettings, TrialConfig
from decrop.data.limited import LabelledImages, LimitedData
from decrop.errors import InputError
from decrop.synthesis.interpolation import same_class_partners
from decrop.synthesis.synthetic_samples import SyntheticSamples, synthetic_samples
from tests.decrop.stage_one_processes import BOUNDARY, INTERPOLATION, digest, stage_one_at_once
from tests.decrop.tiny import CPU, labelled, limited, random_images, random_samples, tiny_classifier

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = random_images(10)
# Six images a class, of which one or two are held out.
IN_CLASSES = LabelledImages(random_images(24), torch.arange(24) // 6, torch.arange(24))
SAME_CLASS = INTERPOLATION.model_copy(update={"partner": "same_class"})


@pytest.fixture
def cache(tmp_path: Path) -> ContentCache:
    return ContentCache(tmp_path)


def made(
    cache: ContentCache,
    *,
    classifier: Classifier | None = None,
    images: LabelledImages | None = None,
    held_out: torch.Tensor | None = None,
    boundary: BoundarySettings = BOUNDARY,
    interpolation: InterpolationSettings = INTERPOLATION,
    seed: int = 0,
) -> SyntheticSamples:
    images = images or labelled(tiny_classifier(), IMAGES)
    return synthetic_samples(
        TrialConfig(seed=seed, boundary=boundary, interpolation=interpolation),
        classifier or tiny_classifier(),
        limited(images) if held_out is None else LimitedData(images, held_out),
        cache=cache,
        device=CPU,
    )


def computations(cache: ContentCache) -> tuple[int, int]:
    return cache.computations("boundary"), cache.computations("interpolated")


def same(one: SyntheticSamples, other: SyntheticSamples) -> bool:
    return all(
        torch.equal(getattr(one, field.name), getattr(other, field.name))
        for field in dataclasses.fields(SyntheticSamples)
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


def test_boundary_samples_are_floored_where_asked_to(cache: ContentCache) -> None:
    floored = made(cache, boundary=BOUNDARY.model_copy(update={"pixels": "uint8"}))
    samples = made(cache)
    assert torch.equal((floored.boundary * 255).round() / 255, floored.boundary)
    below = 255 * (samples.boundary - floored.boundary)
    assert below.min() > -1e-3
    assert 0.5 < below.max() < 1 + 1e-3
    changed = tiny_classifier()(floored.clean).argmax(1) != tiny_classifier()(
        floored.boundary
    ).argmax(1)
    assert torch.equal(floored.flipped, changed)
    # Interpolated logits are those of the sample before, so the cache serves both.
    assert torch.equal(floored.interpolated, samples.interpolated)
    assert computations(cache) == (1, 1)


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


@pytest.mark.slow
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


@pytest.mark.parametrize("change", [{"epsilon": 0.2}, {"attack": "deepfool"}])
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
        {"partner": "same_class"},
    ],
)
def test_other_interpolation_shares_the_boundary_samples(
    cache: ContentCache, change: dict[str, Any]
) -> None:
    first = made(cache, images=IN_CLASSES)
    other = made(cache, images=IN_CLASSES, interpolation=INTERPOLATION.model_copy(update=change))
    assert computations(cache) == (1, 2)
    assert torch.equal(first.boundary, other.boundary)
    assert torch.equal(first.flipped, other.flipped)
    assert not torch.equal(first.interpolated, other.interpolated)


@pytest.mark.parametrize(
    ("attack", "change"),
    [
        ("pgd", {"on_failure": "drop"}),
        ("pgd", {"overshoot": 0.5, "square_queries": 5}),
        ("deepfool", {"epsilon": 0.5, "step_size": 0.5, "square_queries": 5}),
    ],
)
def test_setting_that_the_attack_does_not_read_changes_no_entry(
    cache: ContentCache, attack: str, change: dict[str, Any]
) -> None:
    boundary = BOUNDARY.model_copy(update={"attack": attack})
    first = made(cache, boundary=boundary)
    assert same(made(cache, boundary=boundary.model_copy(update=change)), first)
    assert computations(cache) == (1, 1)


# Partners of the same class.


def test_logits_lie_between_those_of_image_and_partner(cache: ContentCache) -> None:
    classifier = tiny_classifier()
    interpolation = SAME_CLASS.model_copy(update={"mixing_coefficient": 0.8, "steps": 800})
    samples = made(cache, images=IN_CLASSES, interpolation=interpolation)
    held_out = limited(IN_CLASSES).held_out_mask
    partners = same_class_partners(IN_CLASSES.labels, held_out, seed=0)
    clean = classifier(samples.clean)
    expected = 0.8 * clean + 0.2 * clean[partners]
    error = (classifier(samples.interpolated[0]) - expected).square().mean()
    assert error < 0.01 * (expected - clean).square().mean()


def test_samples_start_at_the_image_itself(cache: ContentCache) -> None:
    samples = made(cache, images=IN_CLASSES, interpolation=SAME_CLASS)
    # In steps of 0.001 no sample leaves its own image for another's.
    assert (samples.interpolated - samples.clean).abs().max() < 0.02
    assert not torch.equal(samples.interpolated[0], samples.clean)


def test_partners_of_the_same_class_know_nothing_of_the_attack(cache: ContentCache) -> None:
    first = made(cache, images=IN_CLASSES, interpolation=SAME_CLASS)
    boundary = BOUNDARY.model_copy(update={"epsilon": 0.2})
    other = made(cache, images=IN_CLASSES, boundary=boundary, interpolation=SAME_CLASS)
    assert computations(cache) == (2, 1)
    assert not torch.equal(first.boundary, other.boundary)
    assert torch.equal(first.interpolated, other.interpolated)


def test_other_partners_are_another_entry(cache: ContentCache) -> None:
    first = made(cache, images=IN_CLASSES, interpolation=SAME_CLASS)
    held_out = limited(IN_CLASSES).held_out_mask.roll(1)
    other = made(cache, images=IN_CLASSES, held_out=held_out, interpolation=SAME_CLASS)
    assert computations(cache) == (1, 2)
    assert not torch.equal(first.interpolated, other.interpolated)
    made(cache, images=IN_CLASSES, held_out=held_out)
    made(cache, images=IN_CLASSES)
    assert computations(cache) == (1, 3)


def test_nothing_held_out_enters_the_samples_to_train_on(cache: ContentCache) -> None:
    held_out = limited(IN_CLASSES).held_out_mask
    pixels = IN_CLASSES.images.clone()
    pixels[held_out] = 255 - pixels[held_out]
    others = dataclasses.replace(IN_CLASSES, images=pixels)
    first, other = (
        made(cache, images=images, interpolation=SAME_CLASS).interpolated
        for images in (IN_CLASSES, others)
    )
    assert computations(cache) == (2, 2)
    torch.testing.assert_close(first[:, ~held_out], other[:, ~held_out], atol=1e-6, rtol=0)
    assert (first[:, held_out] != other[:, held_out]).any()


def test_class_without_partners_is_refused_before_anything_is_computed(
    cache: ContentCache,
) -> None:
    # The last class keeps one image.
    labels = IN_CLASSES.labels.clamp_max(2)
    labels[0] = 3
    images = dataclasses.replace(IN_CLASSES, labels=labels)
    with pytest.raises(InputError, match="same_class: class 3 has 1 image"):
        made(cache, images=images, interpolation=SAME_CLASS)
    assert computations(cache) == (0, 0)
    made(cache, images=images)
    assert computations(cache) == (1, 1)


# How near eq. 7 comes.


@pytest.mark.parametrize("mode", ["as_written", "published"])
def test_logit_errors_are_those_of_the_samples(cache: ContentCache, mode: str) -> None:
    classifier = tiny_classifier()
    interpolation = InterpolationSettings.model_validate({"count": 2, "steps": 5, "mode": mode})
    samples = made(cache, interpolation=interpolation)
    clean, boundary = classifier(samples.clean), classifier(samples.boundary)
    assert samples.logit_errors.shape == (2, len(IMAGES))
    for share, interpolated, errors in zip(
        (1 / 3, 2 / 3), samples.interpolated, samples.logit_errors, strict=True
    ):
        target = share * clean + (1 - share) * boundary
        expected = (classifier(interpolated) - target).norm(dim=1) / target.norm(dim=1)
        torch.testing.assert_close(errors, expected, atol=1e-5, rtol=1e-4)


def test_other_classifier_is_another_entry(cache: ContentCache) -> None:
    images = labelled(tiny_classifier(), IMAGES)
    made(cache, images=images)
    changed = tiny_classifier()
    weight = changed.network.get_parameter("3.weight")
    with torch.no_grad():
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    made(cache, classifier=changed, images=images)
    assert computations(cache) == (2, 2)
    standardised = Classifier(
        tiny_classifier().network, architecture="tiny", mean=(0.5,), std=(0.2,), class_count=4
    )
    made(cache, classifier=standardised, images=images)
    assert computations(cache) == (3, 3)


def test_other_data_or_seed_is_another_entry(cache: ContentCache) -> None:
    images = labelled(tiny_classifier(), IMAGES)
    made(cache, images=images)
    pixels = IMAGES.clone()
    pixels[0, 0, 0, 0] += 1
    made(cache, images=dataclasses.replace(images, images=pixels))
    assert computations(cache) == (2, 2)
    made(cache, images=dataclasses.replace(images, labels=(images.labels + 1) % 4))
    assert computations(cache) == (3, 3)
    made(cache, seed=1)
    assert computations(cache) == (4, 4)


def test_position_in_the_split_is_no_part_of_the_content(cache: ContentCache) -> None:
    images = labelled(tiny_classifier(), IMAGES)
    made(cache, images=images)
    made(cache, images=dataclasses.replace(images, indices=images.indices + 5))
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
    assert torch.equal(part.logit_errors, samples.logit_errors[:, rows])


def test_samples_do_not_depend_on_how_many_are_computed_at_once(
    cache: ContentCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made(cache)
    monkeypatch.setattr("decrop.synthesis.synthetic_samples._AT_ONCE", 3)
    parts = made(ContentCache(tmp_path / "other"))
    assert torch.equal(parts.flipped, whole.flipped)
    # But for last bits.
    assert torch.allclose(parts.interpolated, whole.interpolated, rtol=0, atol=1e-6)
    assert torch.allclose(parts.logit_errors, whole.logit_errors, rtol=1e-4)


def test_memory_beyond_the_images_does_not_grow_with_them() -> None:
    command = [sys.executable, "-m", "tests.decrop.stage_one_memory", "6000"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    # All at once it takes 470.
    assert float(answer.stdout) < 300
