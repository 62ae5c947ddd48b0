"""AlexNet as Black-Box Ripper has it for CIFAR-10."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from decrop.networks.alexnet import AlexNet, normalise_response

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("halved", "expected"),
    [
        (False, {"conv": [48, 128, 192, 192, 128], "linear": [(1152, 512), (512, 256), (256, 10)]}),
        (True, {"conv": [24, 64, 96, 96, 64], "linear": [(576, 256), (256, 128), (128, 10)]}),
    ],
)
def test_widths_are_the_published_ones(halved: bool, expected: dict[str, list[object]]) -> None:
    network = AlexNet(image_channels=3, class_count=10, halved=halved)
    layers = list(network.modules())
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == expected["conv"]
    assert [layer.kernel_size[0] for layer in convolutions] == [5, 5, 3, 3, 3]
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == expected["linear"]
    norms = [m for m in layers if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
    assert [norm.eps for norm in norms] == [1e-3] * 7
    names = [f"conv{n}" for n in range(1, 6)] + [f"batch_norm{n}" for n in range(1, 8)]
    assert {key.partition(".")[0] for key in network.state_dict()} == {*names, "fc1", "fc2", "fc3"}


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_response_normalisation_is_pytorchs(scale: float) -> None:
    maps = scale * torch.randn(2, 5, 4, 3)
    torch.testing.assert_close(normalise_response(maps), nn.LocalResponseNorm(2)(maps))


def test_forward_is_the_published_order_of_layers() -> None:
    torch.manual_seed(0)
    network = AlexNet(image_channels=2, class_count=4, halved=True)
    # Strong enough that the response normalisation is seen.
    images = 300 * torch.randn(6, 2, 32, 32)
    network(images)
    network.eval()
    layers = dict(network.named_children())
    pool, normalise = nn.MaxPool2d(3, 2), nn.LocalResponseNorm(2)
    maps = images
    for number in range(1, 6):
        maps = F.relu(layers[f"conv{number}"](maps))
        if number <= 2:
            maps = normalise(maps)
        if number in (1, 2, 5):
            maps = pool(maps)
        maps = layers[f"batch_norm{number}"](maps)
    assert maps.shape == (6, 64, 3, 3)
    features = maps.flatten(1)
    for number in (1, 2):
        features = F.relu(layers[f"fc{number}"](features))
        features = layers[f"batch_norm{5 + number}"](features)
    torch.testing.assert_close(network(images), layers["fc3"](features), rtol=1e-4, atol=1e-4)


def test_larger_maps_are_averaged_to_those_of_32_pixels() -> None:
    network = AlexNet(image_channels=1, class_count=4, halved=True).eval()
    maps: list[torch.Tensor] = []
    features: list[torch.Tensor] = []
    network.batch_norm5.register_forward_hook(lambda *call: maps.append(call[2]))
    network.fc1.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    network(torch.rand(2, 1, 84, 84))
    assert maps[0].shape == (2, 64, 9, 9)
    torch.testing.assert_close(features[0], F.avg_pool2d(maps[0], 3).flatten(1))


def test_dropout_acts_in_training_only() -> None:
    network = AlexNet(image_channels=1, class_count=4, halved=True)
    images = torch.rand(8, 1, 32, 32)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))
