"""Adversarial examples of a smoothed classifier: where they lie and what they ascend."""

import pytest
import torch
from torch import Tensor

from decrop.training.adversarial import attack_objective, smoothed_adversaries
from tests.decrop.tiny import random_images, tiny_classifier

DRAWS, IMAGES = 3, 12
CLASSIFIER = tiny_classifier()
CLEAN = random_images(IMAGES).float() / 255
LABELS = CLASSIFIER(CLEAN).argmax(1).detach()
NOISE = 0.1 * torch.randn(DRAWS, *CLEAN.shape, generator=torch.Generator().manual_seed(1))


def classify(noisy: Tensor) -> Tensor:
    logits: Tensor = CLASSIFIER(noisy.flatten(0, 1)).unflatten(0, noisy.shape[:2])
    return logits


def attacked(epsilon: float = 0.3, steps: int = 2, weight: float = 0.2) -> Tensor:
    return smoothed_adversaries(
        classify,
        CLEAN,
        LABELS,
        NOISE,
        epsilon=epsilon,
        steps=steps,
        regularisation_weight=weight,
    )


def test_attack_objective_is_equation_12() -> None:
    logits = 3 * torch.randn(DRAWS, IMAGES, 4, dtype=torch.float64)
    probabilities = logits.softmax(2).mean(0)
    true = probabilities.gather(1, LABELS[:, None])[:, 0]
    runner_up = probabilities.scatter(1, LABELS[:, None], 0).amax(1)
    # With weight 0 it is SmoothAdv's.
    for weight in (0.0, 0.3):
        expected = weight * runner_up.log() - true.log()
        torch.testing.assert_close(attack_objective(logits, LABELS, weight), expected)


def norms(images: Tensor) -> Tensor:
    return (images - CLEAN).flatten(1).norm(dim=1)


@pytest.mark.parametrize("weight", [0.0, 0.3])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("epsilon", [0.1, 0.5, 3.0])
def test_adversaries_stay_in_their_ball(epsilon: float, steps: int, weight: float) -> None:
    distances = norms(attacked(epsilon, steps, weight))
    assert (distances <= epsilon * (1 + 1e-5)).all()
    # And use it, a step being long enough to leave it.
    assert (distances > 0.5 * epsilon).all()


@pytest.mark.parametrize("weight", [0.0, 0.3])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_attack_ascends_its_objective(steps: int, weight: float) -> None:
    before = attack_objective(classify(CLEAN + NOISE), LABELS, weight)
    after = attack_objective(classify(attacked(0.2, steps, weight) + NOISE), LABELS, weight)
    assert (after > before).all()


def test_all_steps_see_the_same_noise_and_differ_in_the_image() -> None:
    seen: list[Tensor] = []

    def watched(noisy: Tensor) -> Tensor:
        seen.append(noisy.detach().clone())
        return classify(noisy)

    smoothed_adversaries(watched, CLEAN, LABELS, NOISE, epsilon=0.3, steps=3)
    assert len(seen) == 3
    torch.testing.assert_close(seen[0], CLEAN + NOISE)
    for noisy in seen:
        # One image under all draws, as far as a float32 tells.
        torch.testing.assert_close(noisy - NOISE, (noisy - NOISE)[:1].expand_as(noisy))
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_one_step_is_along_the_gradient_to_the_sphere() -> None:
    images = CLEAN.clone().requires_grad_()
    objective = attack_objective(classify(images + NOISE), LABELS, 0.2).sum()
    (gradient,) = torch.autograd.grad(objective, images)
    direction = gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    torch.testing.assert_close(attacked(steps=1), CLEAN + 0.3 * direction)


def test_an_image_without_a_gradient_stays() -> None:
    found = smoothed_adversaries(
        lambda noisy: noisy.sum((2, 3, 4))[:, :, None].expand(-1, -1, 4) * 0,
        CLEAN,
        LABELS,
        NOISE,
        epsilon=0.3,
        steps=2,
    )
    assert torch.equal(found, CLEAN)
