"""The discriminator and the reversal of its gradient."""

import pytest
import torch
from torch import nn

from decrop.networks.discriminator import Discriminator, reverse_gradient

pytestmark = pytest.mark.usefixtures("one_thread")


def test_layers_are_the_published_ones() -> None:
    discriminator = Discriminator(features=64, hidden_units=100)
    kinds = [type(layer) for layer in discriminator.layers]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    shapes = [tuple(parameter.shape) for parameter in discriminator.parameters()]
    assert shapes == [(100, 64), (100,), (100,), (100,), (1, 100), (1,)]


@pytest.mark.parametrize("outputs", [1, 2])
def test_one_score_a_sample(outputs: int) -> None:
    discriminator = Discriminator(features=5, hidden_units=3, outputs=outputs).eval()
    features = torch.randn(6, 5)
    scores = discriminator(features)
    assert scores.shape == (6,)
    torch.testing.assert_close(discriminator(features[2:3]), scores[2:3])


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0])
def test_gradient_is_reversed_and_scaled_and_the_value_is_not(scale: float) -> None:
    values = torch.randn(4, 3, requires_grad=True)
    weights = torch.randn(4, 3)
    reversed_ = reverse_gradient(values, scale)
    assert torch.equal(reversed_, values)
    (reversed_ * weights).sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, -scale * weights)
