"""The U-Net: resolutions, padding, and what it subtracts."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from decrop.networks.unet import UNet
from tests.cases import cases

pytestmark = pytest.mark.usefixtures("one_thread")


def trained(image_channels: int = 2, channels: int = 4) -> UNet:
    torch.manual_seed(0)
    network = UNet(image_channels=image_channels, channels=channels).eval()
    network.tail.reset_parameters()
    return network


def test_each_resolution_has_twice_the_channels_of_the_one_above() -> None:
    network = trained(channels=4)
    shapes = []
    for name in ("head", "down1", "down2", "body", "up2", "up1", "tail"):
        layer = network.get_submodule(name)
        layer.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[1:])))
    network(torch.randn(1, 2, 16, 24))
    assert shapes == [
        *[(4, 16, 24), (8, 8, 12), (16, 4, 6), (16, 4, 6), (8, 8, 12), (4, 16, 24)],
        (2, 16, 24),
    ]


def test_there_is_neither_batch_norm_nor_bias() -> None:
    network = UNet(image_channels=3, channels=4)
    kinds = {type(layer) for layer in network.modules() if not list(layer.children())}
    assert kinds == {nn.Conv2d, nn.ConvTranspose2d, nn.ReLU}
    assert all(parameter.ndim == 4 for parameter in network.parameters())


def test_denoiser_subtracts_what_its_layers_predict() -> None:
    network = trained()
    images = torch.randn(2, 2, 8, 12)
    full = network.head(images)
    half = network.down1(full)
    quarter = network.down2(half)
    half = half + network.up2(quarter + network.body(quarter))
    predicted = network.tail(full + network.up1(half))
    assert predicted.abs().max() > 0.01
    torch.testing.assert_close(network(images), images - predicted)


@cases(("height", "width"), [(1, 1), (5, 8), (9, 7), (10, 12)])
def test_an_image_is_padded_by_repeating_its_edge(height: int, width: int) -> None:
    network = trained()
    images = torch.randn(2, 2, height, width)
    padded = F.pad(images, (0, -width % 4, 0, -height % 4), mode="replicate")
    assert padded.shape[2] % 4 == padded.shape[3] % 4 == 0
    torch.testing.assert_close(network(images), network(padded)[..., :height, :width])
