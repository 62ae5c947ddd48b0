"""ResNet-12 of the few-shot literature."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from decrop.networks.resnet import ResNet12

pytestmark = pytest.mark.usefixtures("one_thread")


def test_backbone_is_metaoptnets() -> None:
    with torch.device("meta"):
        network = ResNet12(image_channels=3, class_count=64)
    backbone = [p.numel() for name, p in network.named_parameters() if not name.startswith("fc.")]
    # 12.4 M, as the papers that use it state.
    assert sum(backbone) == 12_424_320
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    layers = [convolution for convolution in convolutions if convolution.kernel_size == (3, 3)]
    assert len(layers) == 12
    assert len(convolutions) == 16
    assert all(convolution.bias is None for convolution in convolutions)
    assert [layer.out_channels for layer in layers[::3]] == [64, 160, 320, 640]


def test_blocks_add_a_projection_before_they_activate_and_pool() -> None:
    torch.manual_seed(0)
    network = ResNet12(image_channels=2, class_count=5)
    block = network.layer1[0]
    block(torch.randn(8, 2, 6, 6))
    block.eval()
    images = torch.randn(3, 2, 9, 6)
    slope = nn.LeakyReLU(0.1)
    children = dict(block.named_children())
    maps = images
    for number in (1, 2):
        maps = slope(children[f"bn{number}"](children[f"conv{number}"](maps)))
    maps = children["bn3"](children["conv3"](maps)) + children["downsample"](images)
    assert (maps < 0).any()
    expected = F.max_pool2d(slope(maps), 2)
    assert expected.shape == (3, 64, 4, 3)
    torch.testing.assert_close(block(images), expected)


def test_features_are_the_average_of_the_last_maps() -> None:
    network = ResNet12(image_channels=1, class_count=5).eval()
    images = torch.randn(2, 1, 36, 36)
    with torch.inference_mode():
        maps = network.layer4(network.layer3(network.layer2(network.layer1(images))))
        assert maps.shape == (2, 640, 2, 2)
        torch.testing.assert_close(network(images), network.fc(maps.mean((2, 3))))
