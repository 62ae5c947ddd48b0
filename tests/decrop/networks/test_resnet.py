"""CIFAR ResNets: depth, key names, and torchvision's block as the reference for ours."""

import pytest
import torch
from torch import nn

from decrop._torchvision import torchvision
from decrop.networks.registry import build_classifier_network
from decrop.networks.resnet import BasicBlock
from tests.cases import cases

pytestmark = pytest.mark.usefixtures("one_thread")

CONVOLUTIONS = ["conv1.weight", "conv2.weight"]
NORMS = [
    f"{norm}.{name}"
    for norm in ("bn1", "bn2")
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
]


def resnet(depth: int) -> nn.Module:
    return build_classifier_network(
        f"cifar_resnet{depth}",  # type: ignore[arg-type]
        image_channels=3,
        class_count=10,
    )


def expected_keys(blocks: int) -> set[str]:
    keys = {"conv1.weight", "fc.weight", "fc.bias"}
    keys |= {key for key in NORMS if key.startswith("bn1.")}
    for layer in (1, 2, 3):
        for block in range(blocks):
            keys |= {f"layer{layer}.{block}.{key}" for key in CONVOLUTIONS + NORMS}
    for layer in (2, 3):
        keys.add(f"layer{layer}.0.downsample.0.weight")
        norm = [key.removeprefix("bn1.") for key in NORMS if key.startswith("bn1.")]
        keys |= {f"layer{layer}.0.downsample.1.{key}" for key in norm}
    return keys


@cases("depth", [20, 56, 110])
def test_depth_and_keys(depth: int) -> None:
    network = resnet(depth)
    convolutions = [
        layer
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
    ]
    assert len(convolutions) + 1 == depth
    assert all(layer.bias is None for layer in convolutions)
    assert set(network.state_dict()) == expected_keys((depth - 2) // 6)


def test_stages_halve_the_maps_and_double_the_channels() -> None:
    network = resnet(20).eval()
    shapes = []
    for name in ("conv1", "layer1", "layer2", "layer3"):
        layer = network.get_submodule(name)
        layer.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[1:])))
    features: list[torch.Tensor] = []
    network.get_submodule("fc").register_forward_pre_hook(lambda _, inputs: features.extend(inputs))
    maps: list[torch.Tensor] = []
    network.get_submodule("layer3").register_forward_hook(lambda *call: maps.append(call[2]))
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert shapes == [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)]
    torch.testing.assert_close(features[0], maps[0].mean((2, 3)))


@pytest.mark.parametrize(("channels_out", "stride"), [(16, 1), (32, 2)])
def test_block_is_torchvisions(channels_out: int, stride: int) -> None:
    ours = BasicBlock(16, channels_out, stride)
    projection = None
    if stride != 1:
        projection = nn.Sequential(
            nn.Conv2d(16, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
        )
    reference = torchvision.models.resnet.BasicBlock(16, channels_out, stride, projection)
    reference.load_state_dict(ours.state_dict())
    maps = torch.randn(3, 16, 8, 8)
    torch.testing.assert_close(ours(maps), reference(maps))
    torch.testing.assert_close(ours.eval()(maps), reference.eval()(maps))
