"""Losses of classifier training against sums written out by hand."""

import math

import pytest
import torch
from torch import Tensor

from decrop.training.classifier_losses import (
    PROBABILITY_FLOOR,
    perturbed_cross_entropy,
    runner_up_cross_entropy,
    smoothed_log_probabilities,
)

DRAWS, IMAGES, CLASSES = 3, 5, 4


@pytest.fixture
def logits() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(DRAWS, IMAGES, CLASSES, generator=generator, dtype=torch.float64)


LABELS = torch.tensor([0, 3, 1, 1, 2])


def softmax(logits: Tensor) -> list[list[list[float]]]:
    """Draw, image, class, by the definition."""
    rows = []
    for draw in logits.tolist():
        exponentials = [[math.exp(value) for value in image] for image in draw]
        rows.append([[value / sum(image) for value in image] for image in exponentials])
    return rows


def smoothed(logits: Tensor) -> list[list[float]]:
    """Eq. 8 for each image."""
    draws = softmax(logits)
    return [
        [sum(draw[i][c] for draw in draws) / DRAWS for c in range(CLASSES)] for i in range(IMAGES)
    ]


def test_cross_entropy_is_the_mean_over_draws_and_images(logits: Tensor) -> None:
    expected = [
        -math.log(draw[image][label])
        for draw in softmax(logits)
        for image, label in enumerate(LABELS.tolist())
    ]
    found = perturbed_cross_entropy(logits, LABELS).item()
    assert found == pytest.approx(sum(expected) / (DRAWS * IMAGES))


def test_smoothed_probabilities_are_mean_softmax(logits: Tensor) -> None:
    found = smoothed_log_probabilities(logits).exp().tolist()
    for image, expected in zip(found, smoothed(logits), strict=True):
        assert image == pytest.approx(expected)


def test_runner_up_is_the_likeliest_but_the_true_class(logits: Tensor) -> None:
    # Both kinds of images are there: right ones, and wrong ones, whose runner-up is the top class.
    tops = smoothed_log_probabilities(logits).argmax(1) == LABELS
    assert tops.any() and not tops.all()
    found = runner_up_cross_entropy(smoothed_log_probabilities(logits), LABELS).tolist()
    expected = [
        -math.log(max(p for c, p in enumerate(row) if c != label))
        for row, label in zip(smoothed(logits), LABELS.tolist(), strict=True)
    ]
    assert found == pytest.approx(expected)


def test_probabilities_that_underflow_stay_finite() -> None:
    logits = torch.tensor([[[1000.0, 0.0]], [[800.0, 0.0]]], requires_grad=True)
    label = torch.tensor([1])
    log_probabilities = smoothed_log_probabilities(logits)
    assert log_probabilities[0, 1].item() == pytest.approx(-800 - math.log(2), rel=1e-6)
    perturbed_cross_entropy(logits, label).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_regulariser_rewards_nothing_below_its_floor() -> None:
    label = torch.tensor([0])

    def regulariser(margin: float) -> tuple[float, float]:
        logits = torch.tensor([[[margin, 0.0, -5.0]]], requires_grad=True)
        loss = runner_up_cross_entropy(smoothed_log_probabilities(logits), label).sum()
        loss.backward()
        assert logits.grad is not None
        return loss.item(), logits.grad.abs().max().item()

    value, gradient = regulariser(10.0)
    assert value == pytest.approx(10.0, abs=0.01)
    assert gradient > 0.9
    value, gradient = regulariser(100.0)
    assert value == pytest.approx(-math.log(PROBABILITY_FLOOR))
    assert gradient == 0
