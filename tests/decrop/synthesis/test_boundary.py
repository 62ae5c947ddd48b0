"""Boundary samples: they cross the boundary, stay in the ball, and follow their seed alone."""

import math
import random
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from decrop.classifiers.classifier import Classifier
from decrop.config import Attack, BoundarySettings
from decrop.synthesis import boundary as boundary_module
from decrop.synthesis.boundary import boundary_samples, flipped
from tests.decrop.tiny import CLASSES, CPU, random_images, tiny_classifier

pytestmark = pytest.mark.usefixtures("one_thread")

ATTACKS = get_args(Attack)
# Rounding of float32 near 1.
ROUNDING = 1e-7
IMAGES = random_images(40).float() / 255


def settings(attack: str = "pgd", **given: Any) -> BoundarySettings:
    values = {"epsilon": 0.1, "step_size": 0.02, "steps": 10, **given}
    return BoundarySettings.model_validate({"attack": attack, **values})


def attacked(
    attack: str = "pgd",
    images: Tensor = IMAGES,
    labels: Tensor | None = None,
    classifier: Classifier | None = None,
    seed: int = 0,
    **given: Any,
) -> Tensor:
    classifier = classifier or tiny_classifier()
    if labels is None:
        labels = classifier(images).argmax(1)
    return boundary_samples(
        classifier, images, labels, settings(attack, **given), seed=seed, device=CPU
    )


def test_registry_has_what_the_schema_allows() -> None:
    assert set(boundary_module._ATTACKS) == set(ATTACKS)


@pytest.mark.parametrize("attack", ATTACKS)
def test_generous_ball_flips_nearly_every_prediction(attack: str) -> None:
    boundary = attacked(attack, epsilon=0.3, step_size=0.05, steps=20)
    changed = flipped(tiny_classifier(), IMAGES, boundary)
    assert changed.dtype == torch.bool
    assert changed.float().mean() > 0.95


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("epsilon", [8 / 255, 0.1, 0.6])
@pytest.mark.parametrize("step_size", [0.02, 0.9])
def test_samples_stay_in_the_ball_and_in_the_pixel_range(
    attack: str, epsilon: float, step_size: float
) -> None:
    images = torch.cat([IMAGES[:8], torch.zeros(2, 1, 6, 6), torch.ones(2, 1, 6, 6)])
    boundary = attacked(attack, images, epsilon=epsilon, step_size=step_size)
    assert boundary.shape == images.shape
    assert boundary.dtype == torch.float32
    assert (boundary - images).abs().max() <= epsilon + ROUNDING
    assert boundary.min() >= 0
    assert boundary.max() <= 1


@pytest.mark.parametrize("attack", ATTACKS)
def test_wider_ball_flips_more(attack: str) -> None:
    rates = [
        flipped(tiny_classifier(), IMAGES, attacked(attack, epsilon=epsilon, step_size=epsilon / 4))
        .float()
        .mean()
        for epsilon in (1e-4, 0.03, 0.3)
    ]
    assert rates[0] < 0.2
    assert rates == sorted(rates)


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_ascends_the_loss_of_the_given_labels(attack: str) -> None:
    classifier = tiny_classifier()
    labels = (classifier(IMAGES).argmax(1) + torch.arange(len(IMAGES)) % 2) % CLASSES
    boundary = attacked(attack, labels=labels)
    before = F.cross_entropy(classifier(IMAGES), labels, reduction="none")
    after = F.cross_entropy(classifier(boundary), labels, reduction="none")
    assert (after > before).float().mean() > 0.95
    # Images with a wrong prediction as much as those with a right one.
    assert (after > before)[1::2].float().mean() > 0.9


@pytest.mark.parametrize("attack", ATTACKS)
def test_samples_follow_the_seed_alone(attack: str) -> None:
    # A single small step, so that the random start shows.
    given = {"steps": 1, "step_size": 0.001}
    torch.manual_seed(1)
    np.random.seed(1)
    first = attacked(attack, **given)
    torch.manual_seed(2)
    np.random.seed(2)
    assert torch.equal(attacked(attack, **given), first)
    other = attacked(attack, seed=1, **given)
    assert ((other - first).flatten(1).abs().amax(1) > 0.01).all()


def test_pgd_starts_anywhere_in_the_ball() -> None:
    start = attacked(steps=1, step_size=1e-6, epsilon=0.1, images=torch.full((50, 1, 6, 6), 0.5))
    distances = (start - 0.5).flatten()
    assert distances.min() < -0.095 and distances.max() > 0.095
    assert abs(distances.mean()) < 0.01
    assert distances.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.05)


def test_pgd_takes_the_steps_it_is_given() -> None:
    # From anywhere in the ball, steps of a tenth of it reach its faces in 20 and not in 2.
    few, many = (attacked(steps=steps, step_size=0.01, epsilon=0.1) for steps in (2, 25))
    at_face = [
        ((boundary - IMAGES).abs() > 0.0999).float().mean().item() for boundary in (few, many)
    ]
    assert at_face[0] < 0.4 < 0.6 < at_face[1]


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_leaves_no_trace(attack: str) -> None:
    classifier, images = tiny_classifier(), IMAGES.clone()
    content = classifier.content_hash()
    state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    attacked(attack, images, classifier=classifier)
    assert torch.equal(torch.get_rng_state(), state[0])
    np.testing.assert_equal(np.random.get_state(), state[1])
    assert random.getstate() == state[2]
    assert torch.equal(images, IMAGES)
    assert classifier.content_hash() == content
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert not any(module.training for module in classifier.modules())
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in classifier.modules()
    )


def test_more_images_than_the_library_takes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundary_module, "_BATCH_SIZE", 16)
    boundary = attacked(epsilon=0.3, step_size=0.05, steps=20)
    assert boundary.shape == IMAGES.shape
    assert flipped(tiny_classifier(), IMAGES, boundary).float().mean() > 0.95


def test_flips_are_counted_against_the_prediction_on_the_image() -> None:
    classifier = tiny_classifier()
    predictions = classifier(IMAGES).argmax(1)
    order = predictions.argsort()
    shifted = IMAGES[order.roll(1)]
    expected = predictions[order] != predictions[order.roll(1)]
    assert 0 < expected.sum() < len(IMAGES)
    assert torch.equal(flipped(classifier, IMAGES[order], shifted), expected)
