"""torchvision's ResNet-18 behind another stem."""

import pytest
import torch

from decrop._torchvision import torchvision
from decrop.networks.resnet import resnet18

pytestmark = pytest.mark.usefixtures("one_thread")


def test_only_the_stem_differs_from_torchvisions() -> None:
    with torch.device("meta"):
        state = resnet18(image_channels=3, class_count=1000).state_dict()
        reference = torchvision.models.resnet18().state_dict()
    assert state.keys() == reference.keys()
    different = [name for name in state if state[name].shape != reference[name].shape]
    assert different == ["conv1.weight"]
    assert state["conv1.weight"].shape == (64, 3, 3, 3)


def test_small_images_keep_their_resolution_until_the_second_stage() -> None:
    network = resnet18(image_channels=1, class_count=3).eval()
    shapes = []
    for name in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        layer = network.get_submodule(name)
        layer.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[1:])))
    with torch.inference_mode():
        network(torch.rand(1, 1, 32, 32))
    assert shapes == [(64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
