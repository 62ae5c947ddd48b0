"""Boundary samples: they cross the boundary, stay in the ball, and follow their seed alone."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decrop.classifiers.classifier import Classifier
from decrop.config import BoundarySettings
from decrop.config.synthesis import ATTACKS
from decrop.errors import InputError
from decrop.seeds import seeded_globals
from decrop.synthesis import boundary as boundary_module
from decrop.synthesis.boundary import boundary_samples, determining_settings, flipped
from tests.cases import cases
from tests.decrop.tiny import CLASSES, CPU, SIZE, random_images, tiny_classifier

pytestmark = pytest.mark.usefixtures("one_thread")

# The attacks that keep to the L-infinity ball of eq. 5; DeepFool is one of L2.
BOUNDED = ("pgd", "auto_attack")
# The attacks that leave the predicted class, whatever the true one is.
FROM_THE_PREDICTION = ("auto_attack", "deepfool")
# Rounding of float32 near 1.
ROUNDING = 1e-7
IMAGES = random_images(40).float() / 255


def settings(attack: str = "pgd", **given: Any) -> BoundarySettings:
    values = {"epsilon": 0.1, "step_size": 0.02, "steps": 10, "square_queries": 20, **given}
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


def flip_rate(samples: Tensor) -> float:
    return flipped(tiny_classifier(), IMAGES, samples).float().mean().item()


def colour_images() -> Tensor:
    return random_images(3 * 20).float().reshape(20, 3, SIZE, SIZE) / 255


@pytest.mark.parametrize("attack", BOUNDED)
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
@pytest.mark.parametrize("channels", [1, 3])
def test_attack_flips_more_than_chance_does(attack: str, channels: int) -> None:
    classifier = tiny_classifier(channels=channels)
    images = IMAGES if channels == 1 else colour_images()
    samples = attacked(attack, images, classifier=classifier, epsilon=0.05, step_size=0.01)
    assert samples.shape == images.shape
    assert samples.dtype == torch.float32
    assert samples.min() >= 0 and samples.max() <= 1
    # As far in every pixel as the attack goes in any.
    distance = (samples - images).abs().amax((1, 2, 3), keepdim=True)
    signs = torch.randint(0, 2, images.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noisy = (images + distance * signs).clamp(0, 1)
    by_attack = flipped(classifier, images, samples).float().mean()
    by_chance = flipped(classifier, images, noisy).float().mean()
    assert by_attack > by_chance + 0.3


def test_pgd_ascends_the_loss_of_the_given_labels() -> None:
    classifier = tiny_classifier()
    labels = (classifier(IMAGES).argmax(1) + torch.arange(len(IMAGES)) % 2) % CLASSES
    boundary = attacked(labels=labels)
    before = F.cross_entropy(classifier(IMAGES), labels, reduction="none")
    after = F.cross_entropy(classifier(boundary), labels, reduction="none")
    assert (after > before).float().mean() > 0.95
    # Images with a wrong prediction as much as those with a right one.
    assert (after > before)[1::2].float().mean() > 0.9


@cases("attack", FROM_THE_PREDICTION)
def test_images_that_are_classified_wrongly_are_moved_too(attack: str) -> None:
    generous: dict[str, Any] = {"epsilon": 0.3, "step_size": 0.05, "steps": 20}
    predicted = tiny_classifier()(IMAGES).argmax(1)
    samples = attacked(attack, labels=(predicted + 1) % CLASSES, **generous)
    assert torch.equal(samples, attacked(attack, labels=predicted, **generous))
    assert flip_rate(samples) > 0.95


@cases("attack", ATTACKS)
def test_samples_follow_the_seed_alone(attack: str) -> None:
    # A single small step, so that the random start shows.
    given: dict[str, Any] = {"steps": 1, "step_size": 0.001, "epsilon": 0.2}
    torch.manual_seed(1)
    np.random.seed(1)
    first = attacked(attack, **given)
    torch.manual_seed(2)
    np.random.seed(2)
    assert torch.equal(attacked(attack, **given), first)
    other = attacked(attack, seed=1, **given)
    differs = (other - first).flatten(1).abs().amax(1) > 0.01
    # DeepFool draws nothing, neither alone nor as a part of AutoAttack.
    if attack == "deepfool":
        assert torch.equal(other, first)
    else:
        assert differs.float().mean() >= {"pgd": 1.0, "auto_attack": 0.5}[attack]


@pytest.mark.parametrize("step_size", [0.05, 2.0])
def test_pgd_keeps_to_the_ball_in_l2(step_size: float) -> None:
    images = torch.cat([IMAGES[:8], torch.zeros(2, 1, 6, 6), torch.ones(2, 1, 6, 6)])
    boundary = attacked(images=images, norm="l2", epsilon=1.5, step_size=step_size)
    distances = (boundary - images).flatten(1).norm(dim=1)
    assert distances.max() <= 1.5 + ROUNDING * SIZE**2
    assert boundary.min() >= 0 and boundary.max() <= 1
    # Further in a pixel than an L-infinity ball that lies in this one.
    assert (boundary - images).abs().max() > 1.5 / SIZE


def test_pgd_in_l2_ascends_where_the_slope_is_steepest() -> None:
    # For two classes of a linear classifier: along the difference of their weights.
    classifier = linear_classifier(SIZE * SIZE, 2)
    weight = classifier.network.get_parameter("1.weight")
    images = torch.full((6, 1, SIZE, SIZE), 0.5)
    labels = torch.arange(6) % 2
    given: dict[str, Any] = {"norm": "l2", "epsilon": 0.4, "step_size": 0.4, "steps": 30}
    boundary = attacked(images=images, labels=labels, classifier=classifier, **given)
    way = (weight[1] - weight[0]) * (1 - 2 * labels[:, None])
    expected = 0.5 + 0.4 * way / way.norm(dim=1, keepdim=True)
    torch.testing.assert_close(boundary.flatten(1), expected, atol=1e-4, rtol=0)


def test_auto_attack_leaves_an_image_as_it_is_where_it_fails() -> None:
    samples = attacked("auto_attack", epsilon=0.02, step_size=0.005)
    changed = flipped(tiny_classifier(), IMAGES, samples)
    assert 0 < changed.sum() < len(IMAGES)
    assert torch.equal(samples[~changed], IMAGES[~changed])
    assert (samples[changed] != IMAGES[changed]).flatten(1).any(1).all()


def test_square_takes_images_that_the_other_parts_leave() -> None:
    weak: dict[str, Any] = {"steps": 1, "step_size": 1e-6, "epsilon": 0.1}
    without, with_square = (
        attacked("auto_attack", square_queries=queries, **weak) for queries in (0, 200)
    )
    left = ~flipped(tiny_classifier(), IMAGES, without)
    assert left.sum() > 5
    assert flip_rate(with_square) > flip_rate(without) + 0.1
    assert torch.equal(with_square[~left], without[~left])


@pytest.mark.parametrize(("height", "width"), [(4, 4), (6, 12)])
def test_images_that_square_cannot_work_on_are_refused(height: int, width: int) -> None:
    classifier = linear_classifier(height * width, CLASSES)
    images = torch.full((6, 1, height, width), 0.5)
    with pytest.raises(InputError, match=rf"square_queries.* got {height}x{width}; give 0"):
        attacked("auto_attack", images, classifier=classifier)
    samples = attacked("auto_attack", images, classifier=classifier, square_queries=0)
    assert flipped(classifier, images, samples).all()


def test_two_classes_are_refused_where_the_attack_needs_three() -> None:
    classifier = linear_classifier(SIZE * SIZE, 2)
    with pytest.raises(InputError, match="at least 3 classes, got 2; use pgd or deepfool"):
        attacked("auto_attack", classifier=classifier)
    for attack in ("pgd", "deepfool"):
        samples = attacked(attack, classifier=classifier, epsilon=0.3, steps=20)
        assert flipped(classifier, IMAGES, samples).float().mean() > 0.95


def linear_classifier(inputs: int, classes: int) -> Classifier:
    with seeded_globals(0, "linear classifier"):
        network = nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))
    return Classifier(network, architecture="linear", mean=(0.5,), std=(1.0,), class_count=classes)


@pytest.mark.parametrize("overshoot", [0.02, 0.5])
def test_deepfool_goes_the_shortest_way_in_l2(overshoot: float) -> None:
    # Moosavi-Dezfooli et al. 2016, eq. 8: for a linear classifier it is known.
    classifier = linear_classifier(SIZE * SIZE, CLASSES)
    weight = classifier.network.get_parameter("1.weight")
    images = 0.5 + 0.02 * (IMAGES - 0.5)
    samples = attacked("deepfool", images, classifier=classifier, overshoot=overshoot)
    logits = classifier(images)
    for image, sample, outputs in zip(images, samples, logits, strict=True):
        predicted = outputs.argmax()
        ways = [
            (outputs[predicted] - outputs[other]) * direction / direction.square().sum()
            for other, direction in enumerate(weight - weight[predicted])
            if other != predicted
        ]
        shortest = min(ways, key=lambda way: way.norm().item())
        expected = image.flatten() + (1 + overshoot) * shortest
        assert expected.min() > 0 and expected.max() < 1
        torch.testing.assert_close(sample.flatten(), expected, atol=1e-5, rtol=0)
    assert flipped(classifier, images, samples).all()


def test_deepfool_keeps_no_bound_but_the_pixel_range() -> None:
    images = torch.cat([IMAGES, torch.zeros(2, 1, SIZE, SIZE), torch.ones(2, 1, SIZE, SIZE)])
    samples = attacked("deepfool", images, epsilon=1e-3, overshoot=0.5)
    assert samples.min() >= 0 and samples.max() <= 1
    assert ((samples - images).abs().flatten(1).amax(1) > 0.01).any()
    assert torch.equal(attacked("deepfool", images, epsilon=0.3, overshoot=0.5), samples)


# Every setting but the attack, with a value that differs from that of `WEAK`.
WEAK: dict[str, Any] = {
    "epsilon": 0.1,
    "step_size": 0.01,
    "steps": 1,
    "square_queries": 5,
    "overshoot": 0.02,
}
CHANGED: dict[str, Any] = {
    "epsilon": 0.08,
    "step_size": 0.02,
    "steps": 2,
    "square_queries": 30,
    "overshoot": 0.1,
    "norm": "l2",
    "restarts": 20,
    "on_failure": "drop",
    "pixels": "uint8",
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("field", sorted(set(BoundarySettings.model_fields) - {"attack"}))
def test_settings_that_determine_the_samples_are_those_that_change_them(
    attack: str, field: str
) -> None:
    other = WEAK | {field: CHANGED[field]}
    same_samples = torch.equal(attacked(attack, **WEAK), attacked(attack, **other))
    keys = [determining_settings(settings(attack, **given)) for given in (WEAK, other)]
    assert (keys[0] == keys[1]) == same_samples
    assert keys[0]["attack"] == attack


@cases("attack", ATTACKS)
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


@pytest.mark.parametrize("attack", ATTACKS)
def test_more_images_than_the_library_takes_at_once(
    attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boundary_module, "_BATCH_SIZE", 16)
    monkeypatch.setattr(boundary_module, "_DEEPFOOL_BATCH_SIZE", 16)
    boundary = attacked(attack, epsilon=0.3, step_size=0.05, steps=20)
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
