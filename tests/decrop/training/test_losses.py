"""Every loss against its equation worked out by hand, and where its gradient points."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from decrop.config import KernelSettings, LossWeights, TrainingSettings
from decrop.networks.discriminator import Discriminator, reverse_gradient
from decrop.seeds import torch_generator
from decrop.training.losses import (
    LossTerms,
    cosine_similarity,
    domain_loss,
    feature_map_error,
    label_consistency_loss,
    maximum_mean_discrepancy,
    softened_divergence,
    squared_logit_error,
    total_loss,
)
from decrop.training.schedule import reversal_scale


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch_generator(seed, "losses"))


def gradient(loss: Tensor, values: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss, values)
    return found


# Eq. 8.


def test_label_consistency_is_cross_entropy_to_the_clean_prediction() -> None:
    denoised = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 3.0]])
    clean = torch.tensor([[0.1, 0.0, 0.0], [-5.0, -1.0, -2.0]])
    first = math.log(math.exp(2) + 2) - 2
    second = math.log(1 + math.e + math.exp(3)) - 1
    loss = label_consistency_loss(denoised, clean)
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_label_consistency_pulls_towards_the_clean_prediction_only() -> None:
    denoised = normal(4, 3).requires_grad_()
    clean = normal(4, 3, seed=1).requires_grad_()
    label_consistency_loss(denoised, clean).backward()
    expected = (denoised.softmax(1) - F.one_hot(clean.argmax(1), 3)) / 4
    torch.testing.assert_close(denoised.grad, expected.detach())
    assert clean.grad is None


# Eq. 9.


def test_cosine_similarity_is_the_mean_over_images() -> None:
    denoised = torch.tensor([[3.0, 4.0], [1.0, 0.0], [2.0, 2.0]])
    clean = torch.tensor([[4.0, 3.0], [0.0, 5.0], [-1.0, -1.0]])
    similarity = cosine_similarity(denoised, clean).item()
    assert similarity == pytest.approx((24 / 25 + 0 - 1) / 3, abs=1e-6)


# Eq. 10.


def mean_squared_distance(points: Tensor) -> Tensor:
    pairs = list(itertools.permutations(range(len(points)), 2))
    return torch.stack([(points[i] - points[j]).square().sum() for i, j in pairs]).mean()


def mmd_by_loops(first: Tensor, second: Tensor) -> Tensor:
    """Gretton et al. 2012, eq. 5, pair by pair, with the published kernel of a constant width."""
    width = mean_squared_distance(torch.cat([first, second])).detach()

    def mean_kernel(one: Tensor, other: Tensor) -> Tensor:
        values = [
            sum(
                torch.exp(-(u - v).square().sum() / (width * factor))
                for factor in (1 / 4, 1 / 2, 1, 2, 4)
            )
            for u in one
            for v in other
        ]
        return torch.stack([torch.as_tensor(value) for value in values]).mean()

    return mean_kernel(first, first) + mean_kernel(second, second) - 2 * mean_kernel(first, second)


def test_mmd_of_two_points_by_hand() -> None:
    # One pair of distinct points: w is their squared distance, whatever it is.
    expected = 2 * 5 - 2 * sum(math.exp(-1 / factor) for factor in (0.25, 0.5, 1, 2, 4))
    for distance in (0.1, 1.0, 30.0):
        value = maximum_mean_discrepancy(torch.zeros(1, 2), torch.tensor([[distance, 0.0]]))
        assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("m", "n"), [(4, 4), (3, 5), (6, 2)])
def test_mmd_and_its_gradient_are_those_of_the_definition(m: int, n: int) -> None:
    first, second = normal(m, 3).requires_grad_(), 0.5 + normal(n, 3, seed=1)
    value, expected = maximum_mean_discrepancy(first, second), mmd_by_loops(first, second)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient(value, first), gradient(expected, first))


def test_inverse_multiquadric_kernel_by_hand() -> None:
    kernel = KernelSettings(kind="inverse_multiquadric", bandwidth_factors=(0.5, 2.0))
    # One pair of distinct points: w is their squared distance, whatever it is.
    expected = 2 * 2 - 2 * (0.5 / (0.5 + 1) + 2 / (2 + 1))
    for distance in (0.1, 30.0):
        second = torch.tensor([[distance, 0.0]])
        value = maximum_mean_discrepancy(torch.zeros(1, 2), second, kernel)
        assert value.item() == pytest.approx(expected, rel=1e-5)


def test_linear_kernel_is_the_distance_of_the_means() -> None:
    first, second = normal(4, 3), 0.5 + normal(6, 3, seed=1)
    value = maximum_mean_discrepancy(first, second, KernelSettings(kind="linear"))
    torch.testing.assert_close(value, (first.mean(0) - second.mean(0)).square().sum())


def test_bandwidths_are_factors_of_the_mean_squared_distance() -> None:
    kernel = KernelSettings(bandwidth_factors=(3.0,))
    value = maximum_mean_discrepancy(torch.zeros(1, 2), torch.ones(1, 2), kernel)
    assert value.item() == pytest.approx(2 - 2 * math.exp(-1 / 3), rel=1e-5)


@pytest.mark.parametrize("kind", ["rbf", "inverse_multiquadric", "linear"])
def test_every_kernel_vanishes_for_equal_samples_with_a_finite_gradient(kind: Any) -> None:
    sample = normal(6, 4).requires_grad_()
    kernel = KernelSettings(kind=kind, bandwidth_factors=(1e-6, 1e6))
    value = maximum_mean_discrepancy(sample, sample.detach(), kernel)
    assert value.item() == pytest.approx(0, abs=1e-9)
    assert gradient(value, sample).isfinite().all()
    together = torch.ones(3, 3, requires_grad=True)
    value = maximum_mean_discrepancy(together, torch.ones(3, 3), kernel)
    assert gradient(value, together).isfinite().all()


# Eq. 11.


def test_domain_loss_is_cross_entropy_with_clean_1_and_denoised_0() -> None:
    clean, denoised = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])
    clean_part = (math.log(1 + math.exp(-2)) + math.log(1 + math.e)) / 2
    denoised_part = (math.log(1 + math.exp(0.5)) + math.log(1 + math.exp(3))) / 2
    loss = domain_loss(clean, denoised)
    # The mean over the rows of both domains.
    assert loss.item() == pytest.approx((clean_part + denoised_part) / 2, rel=1e-6)


def test_reversed_gradient_is_the_published_one() -> None:
    """Two logits, NLL over the 2B rows, and 2 (2 / (1 + exp(-10 p)) - 1) on the way back."""
    discriminator = Discriminator(features=4, hidden_units=3, outputs=2).double()
    clean, denoised = normal(5, 4), normal(5, 4, seed=1).requires_grad_()
    progress = 0.3
    likelihoods = F.log_softmax(discriminator.layers(torch.cat([clean, denoised])), dim=1)
    # The logit of clean is the first, so its rows are of class 0.
    rows = F.nll_loss(likelihoods, torch.tensor([0] * 5 + [1] * 5))
    published = -2 * (2 / (1 + math.exp(-10 * progress)) - 1) * gradient(rows, denoised)
    settings = TrainingSettings.model_validate({"discriminator": {"reversal_scale": 2}})
    reversed_ = reverse_gradient(denoised, reversal_scale(settings, progress))
    scores = discriminator(torch.cat([clean, reversed_]))
    loss = domain_loss(scores[:5], scores[5:])
    assert loss.item() == pytest.approx(rows.item())
    torch.testing.assert_close(gradient(loss, denoised), published)


# Distillation.


def test_divergence_of_softened_logits_by_hand() -> None:
    denoised, clean = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3), 0.0]])
    # At temperature 2 the clean softmax is (3/4, 1/4), the denoised one (1/2, 1/2).
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert softened_divergence(denoised, clean, 2.0).item() == pytest.approx(expected, rel=1e-5)
    twice = softened_divergence(denoised.repeat(5, 1), clean.repeat(5, 1), 2.0)
    assert twice.item() == pytest.approx(expected, rel=1e-5)


def test_gradient_of_the_divergence_survives_a_high_temperature() -> None:
    denoised, clean = normal(4, 3).requires_grad_(), normal(4, 3, seed=1)
    found = gradient(softened_divergence(denoised, clean, 1e3), denoised)
    # Hinton et al. 2015, eq. 4: with logits of zero mean, their difference over K.
    centred = [logits - logits.mean(1, keepdim=True) for logits in (denoised.detach(), clean)]
    expected = (centred[0] - centred[1]) / 3 / 4
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-4)


def test_divergence_is_zero_for_equal_logits_up_to_a_shift() -> None:
    logits = normal(4, 3)
    assert softened_divergence(logits + 7, logits, 1.0).item() == pytest.approx(0, abs=1e-12)
    assert squared_logit_error(logits + 7, logits).item() == pytest.approx(49)


def test_each_stage_of_maps_counts_on_its_own_scale() -> None:
    clean = [normal(2, 3, 4, 4), 100 * normal(2, 5, 2, 2, seed=1)]
    denoised = [1.5 * clean[0], -clean[1]]
    # |x / 2|^2 and |2 x|^2 over |x|^2.
    assert feature_map_error(denoised, clean).item() == pytest.approx((0.25 + 4) / 2)
    dead = [torch.zeros(1, 1, 2, 2)]
    assert feature_map_error(dead, dead).item() == 0


# Eq. 12.


def terms(domain: bool = True) -> LossTerms:
    values = [torch.tensor(value, requires_grad=True) for value in (2.0, 0.5, 0.25, 7.0)]
    return LossTerms(values[0], values[1], values[2], values[3] if domain else None)


WEIGHTS = LossWeights(label_consistency=3, cosine=5, mmd=8, discriminator=11)


def test_total_subtracts_the_similarity_and_adds_the_others() -> None:
    assert total_loss(terms(domain=False), WEIGHTS).item() == 3 * 2 - 5 * 0.5 + 8 * 0.25
    # The discriminator learns at full rate: its weight is in the reversed gradient.
    assert total_loss(terms(), WEIGHTS).item() == 3 * 2 - 5 * 0.5 + 8 * 0.25 + 7
