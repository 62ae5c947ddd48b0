"""DnCNN as the paper has it: layers, size, initialisation, and what it subtracts."""

import pytest
import torch
from torch import nn

from decrop.networks.dncnn import DnCNN

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("depth", [3, 6, 17])
def test_layers_are_the_papers(depth: int) -> None:
    layers = list(DnCNN(image_channels=3, depth=depth, channels=4).noise)
    inner = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * (depth - 2)
    assert [type(layer) for layer in layers] == [nn.Conv2d, nn.ReLU, *inner, nn.Conv2d]
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == depth
    assert [layer.bias is not None for layer in convolutions] == [True] + [False] * (depth - 1)
    assert all(layer.kernel_size == (3, 3) for layer in convolutions)
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.eps, layer.momentum) == (1e-4, 0.95)


def test_initialisation_is_orthogonal_with_a_zero_end() -> None:
    network = DnCNN(image_channels=3, depth=4, channels=8)
    convolutions = [layer for layer in network.noise if isinstance(layer, nn.Conv2d)]
    for layer in convolutions[:-1]:
        rows = layer.weight.flatten(1)
        torch.testing.assert_close(rows @ rows.T, torch.eye(8), atol=1e-5, rtol=0)
    assert not convolutions[-1].weight.any()
    assert convolutions[0].bias is not None and not convolutions[0].bias.any()


def test_denoiser_subtracts_what_its_layers_predict() -> None:
    network = DnCNN(image_channels=1, depth=3, channels=4).eval()
    with torch.no_grad():
        network.noise[-1].weight.normal_()
    images = torch.randn(2, 1, 6, 6)
    predicted = network.noise(images)
    assert predicted.abs().max() > 0.01
    torch.testing.assert_close(network(images), images - predicted)


def test_running_statistics_are_nearly_those_of_the_last_batch() -> None:
    network = DnCNN(image_channels=1, depth=3, channels=4).train()
    first = torch.randn(8, 1, 6, 6)
    for images in (first, 5 + 3 * first):
        network(images)
    norm = network.noise[3]
    inputs = torch.relu(network.noise[0](5 + 3 * first))
    expected = network.noise[2](inputs).mean((0, 2, 3))
    before = network.noise[2](torch.relu(network.noise[0](first))).mean((0, 2, 3))
    torch.testing.assert_close(norm.running_mean, 0.95 * (expected + 0.05 * before))
