"""Interpolated samples: eqs. 6 and 7 as written, and what the published code makes of them."""

import statistics
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from decrop.classifiers.classifier import Classifier
from decrop.config import InterpolationSettings
from decrop.errors import InputError
from decrop.synthesis.interpolation import (
    interpolated_logits,
    interpolated_samples,
    mixing_coefficients,
    relative_logit_errors,
    same_class_partners,
)
from tests.cases import cases
from tests.decrop.tiny import CLASSES, SIZE, random_images, tiny_classifier

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = random_images(20).float() / 255
OTHERS = random_images(20, seed=1).float() / 255


def settings(**given_: Any) -> InterpolationSettings:
    return InterpolationSettings.model_validate(given_)


def targets(classifier: Classifier, coefficient: float = 0.5) -> Tensor:
    return interpolated_logits(classifier(IMAGES), classifier(OTHERS), coefficient)


def losses(classifier: Classifier, samples: Tensor, target: Tensor) -> Tensor:
    return (classifier(samples) - target).square().mean(1)


# Eq. 6.


def test_coefficient_weighs_the_clean_logits() -> None:
    clean, boundary = torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0, -2.0]])
    assert torch.equal(interpolated_logits(clean, boundary, 0.75), torch.tensor([[2.0, 1.0]]))
    assert torch.equal(interpolated_logits(clean, boundary, 1.0), clean)
    assert torch.equal(interpolated_logits(clean, boundary, 0.0), boundary)


@cases(
    ("median", "count", "expected"),
    [
        (0.5, 1, [0.5]),
        (0.8, 1, [0.8]),
        (0.0, 1, [0.0]),
        (1.0, 1, [1.0]),
        (0.5, 2, [1 / 3, 2 / 3]),
        (0.5, 5, [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6]),
        (0.8, 3, [0.4, 0.8, 0.9]),
        (0.2, 2, [2 / 15, 0.2 + 0.8 / 3]),
    ],
)
def test_mixing_coefficients_of_the_ablation(
    median: float, count: int, expected: list[float]
) -> None:
    assert mixing_coefficients(settings(mixing_coefficient=median, count=count)) == pytest.approx(
        expected
    )


@given(st.floats(1e-3, 1 - 1e-3), st.integers(1, 16))
@example(0.5, 16)
@example(0.1, 3)
def test_mixing_coefficients_are_distinct_around_their_median(median: float, count: int) -> None:
    coefficients = mixing_coefficients(settings(mixing_coefficient=median, count=count))
    assert len(coefficients) == count
    assert coefficients == sorted(set(coefficients))
    assert 0 <= coefficients[0] <= coefficients[-1] <= 1
    low, high = statistics.median_low(coefficients), statistics.median_high(coefficients)
    assert low <= median <= high
    if count % 2:
        assert statistics.median(coefficients) == pytest.approx(median)


# Partners of the same class.


def partners(labels: Tensor, held_out: Tensor | None = None, seed: int = 0) -> Tensor:
    if held_out is None:
        held_out = torch.zeros(len(labels), dtype=torch.bool)
    return same_class_partners(labels, held_out, seed=seed)


def test_partner_is_another_image_of_the_class() -> None:
    labels = torch.arange(60) % 3
    drawn = partners(labels)
    assert drawn.dtype == torch.int64
    assert torch.equal(labels[drawn], labels)
    assert (drawn != torch.arange(60)).all()


def test_every_other_image_of_the_class_is_as_likely_a_partner() -> None:
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 0])
    draws = torch.stack([partners(labels, seed=seed) for seed in range(600)])
    for position, label in enumerate(labels.tolist()):
        others = [other for other in range(7) if labels[other] == label and other != position]
        counts = draws[:, position].bincount(minlength=7)
        assert counts.sum() == counts[others].sum()
        # Five standard deviations of a binomial count, and more.
        assert (counts[others] - 600 / len(others)).abs().max() < 65


def test_draw_of_partners_follows_its_seed() -> None:
    labels = torch.arange(60) % 3
    assert torch.equal(partners(labels), partners(labels))
    assert (partners(labels) != partners(labels, seed=1)).float().mean() > 0.8


def test_image_to_train_on_has_no_held_out_partner() -> None:
    labels = torch.arange(60) % 3
    held_out = torch.arange(60) % 4 == 0
    draws = torch.stack([partners(labels, held_out, seed=seed) for seed in range(50)])
    assert not held_out[draws[:, ~held_out]].any()
    assert held_out[draws[:, held_out]].any()
    assert not held_out[draws[:, held_out]].all()


def test_class_without_a_second_image_to_train_on_is_refused() -> None:
    labels = torch.tensor([0, 0, 5, 0])
    with pytest.raises(
        InputError, match=r"class 5 has 1 image .* needs 2; raise limited\.fraction"
    ):
        partners(labels)
    with pytest.raises(InputError, match="class 0 has 1 image"):
        partners(torch.tensor([0, 0, 0]), torch.tensor([True, False, True]))
    # The single held-out image has partners to train on.
    held_out = torch.tensor([True, False, False])
    assert partners(torch.tensor([0, 0, 0]), held_out).tolist()[1:] == [2, 1]


# How near eq. 7 comes.


def test_error_is_the_distance_as_a_share_of_the_target() -> None:
    target = torch.tensor([[3.0, 4.0], [3.0, 4.0], [0.0, 0.0], [-6.0, 8.0]])
    reached = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0], [-6.0, 3.0]])
    errors = relative_logit_errors(reached, target)
    torch.testing.assert_close(errors, torch.tensor([0.0, 1.0, 0.0, 0.5]))


# Eq. 7 as written.


@pytest.mark.parametrize("coefficient", [0.25, 0.5, 0.8])
def test_logits_reach_the_interpolated_ones(coefficient: float) -> None:
    # The published code's pixels stop after one step.
    classifier = tiny_classifier()
    target = targets(classifier, coefficient)
    before = losses(classifier, IMAGES, target)
    after = {
        steps: losses(
            classifier,
            interpolated_samples(classifier, IMAGES, target, settings(steps=steps)),
            target,
        )
        for steps in (1, 2, 50, 800)
    }
    assert (after[1] < before).all()
    assert (after[2] < after[1]).all()
    assert after[1].mean() > 0.8 * before.mean()
    assert after[50].mean() < 0.5 * before.mean()
    assert after[800].mean() < 0.02 * before.mean()


def test_optimum_is_kept() -> None:
    classifier = tiny_classifier()
    samples = interpolated_samples(classifier, IMAGES, classifier(IMAGES), settings())
    torch.testing.assert_close(samples, IMAGES, atol=1e-3, rtol=0)


def linear_classifier(scale: float = 1.0) -> Classifier:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, CLASSES))
    with torch.no_grad():
        network[1].weight.mul_(scale)
        network[1].bias.mul_(scale)
    classifier = Classifier(
        network, architecture="linear", mean=(0.5,), std=(0.5,), class_count=CLASSES
    )
    return classifier.double()


def by_hand(classifier: Classifier, image: Tensor, target: Tensor, steps: int, rate: float) -> Any:
    """Adam (Kingma and Ba 2015, algorithm 1) on the pixels of one image, clipped to [0,1]."""
    layer = classifier.network.get_submodule("1")
    weight, bias = layer.weight.numpy(), layer.bias.numpy()
    pixels = image.flatten().numpy().copy()
    first, second = np.zeros_like(pixels), np.zeros_like(pixels)
    for step in range(1, steps + 1):
        error = weight @ ((pixels - 0.5) / 0.5) + bias - target.numpy()
        gradient = 2 / CLASSES * weight.T @ error / 0.5
        first = 0.5 * first + 0.5 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = np.sqrt(second / (1 - 0.999**step)) + 1e-8
        pixels = pixels - rate * first / (1 - 0.5**step) / corrected
        pixels = pixels.clip(0, 1)
    return pixels.reshape(image.shape)


# Logits so small that Adam's epsilon counts: an image's share in the loss of all would show.
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_pixels_move_as_worked_out_by_hand(scale: float) -> None:
    classifier = linear_classifier(scale)
    images, others = IMAGES.double(), OTHERS.double()
    target = interpolated_logits(classifier(images), classifier(others), 0.5)
    # Steps large enough to meet the limits of the pixels.
    given_ = settings(steps=30, learning_rate=0.02)
    samples = interpolated_samples(classifier, images, target, given_)
    for image, wanted, sample in zip(images, target, samples, strict=True):
        expected = by_hand(classifier, image, wanted, 30, 0.02)
        np.testing.assert_allclose(sample.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("mode", ["as_written", "published"])
def test_image_does_not_depend_on_the_others_in_its_batch(mode: str) -> None:
    classifier = linear_classifier(1e-4)
    images = IMAGES.double()
    target = interpolated_logits(classifier(images), classifier(OTHERS.double()), 0.5)
    given_ = settings(mode=mode, steps=20)
    together = interpolated_samples(classifier, images, target, given_)
    for index in (0, 7):
        row = slice(index, index + 1)
        alone = interpolated_samples(classifier, images[row], target[row], given_)
        torch.testing.assert_close(alone, together[row], atol=1e-9, rtol=0)


@pytest.mark.parametrize("rate", [0.001, 0.3])
def test_samples_stay_in_the_pixel_range(rate: float) -> None:
    classifier = tiny_classifier()
    images = torch.cat([IMAGES[:4], torch.zeros(1, 1, SIZE, SIZE), torch.ones(1, 1, SIZE, SIZE)])
    target = 10 * classifier(OTHERS[:6])
    before = images.clone()
    samples = interpolated_samples(classifier, images, target, settings(learning_rate=rate))
    assert samples.shape == images.shape
    assert samples.min() >= 0 and samples.max() <= 1
    assert samples.dtype == torch.float32
    assert not samples.requires_grad
    assert torch.equal(images, before)


def test_classifier_gets_no_gradient() -> None:
    classifier = tiny_classifier()
    content = classifier.content_hash()
    interpolated_samples(classifier, IMAGES, targets(classifier), settings())
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert classifier.content_hash() == content


# Eq. 7 as the published code solves it.


def published(coefficient: float, steps: int = 50) -> Tensor:
    classifier = tiny_classifier()
    given_ = settings(mode="published", steps=steps)
    return interpolated_samples(classifier, IMAGES, targets(classifier, coefficient), given_)


def test_published_samples_are_the_image_or_one_level_below() -> None:
    levels = published(0.8) * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    below = (IMAGES * 255).round() - levels.round()
    assert set(below.unique().tolist()) == {0, 1}
    assert 0.3 < below.mean() < 0.7


def test_published_samples_are_the_same_for_every_coefficient_and_number_of_steps() -> None:
    reference = published(0.8)
    for coefficient in (0.0, 0.25, 0.5, 0.75):
        assert torch.equal(published(coefficient), reference)
    assert torch.equal(published(0.8, steps=1), reference)


def test_published_samples_went_down_where_one_step_goes_down() -> None:
    classifier = tiny_classifier()
    step = interpolated_samples(classifier, IMAGES, targets(classifier), settings(steps=1))
    lower = step < IMAGES
    expected = (IMAGES * 255).round() - lower.float()
    assert torch.equal((published(0.5) * 255).round(), expected)
