from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from decrop.networks.cifar_resnet import CifarResNet
from decrop.networks.dncnn import DnCNN
from decrop.networks.small_cnn import SmallCNN
from decrop.smoothing.folding import fold_batch_norms


def convolution() -> nn.Conv2d:
    return nn.Conv2d(3, 3, 3, padding=1)


class CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = convolution(), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.norm(self.convolution(self.convolution(images)))
        return output


class UsedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = convolution(), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.convolution(images)
        output: Tensor = self.norm(maps) + maps
        return output


class WeightReadElsewhere(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = convolution(), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.norm(self.convolution(images)) * self.convolution.weight.sum()
        return output


class BranchingOnData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = convolution(), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.convolution(images))
        output: Tensor = maps if maps.sum() > 0 else -maps
        return output


class RegisteredTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = convolution(), nn.BatchNorm2d(3)
        self.body = nn.Sequential(self.convolution, self.norm, nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.body(images)
        return output


def with_hook() -> nn.Module:
    network = nn.Sequential(convolution(), nn.BatchNorm2d(3))
    network[0].register_forward_hook(lambda module, arguments, output: 2 * output)
    return network


def sized_by_the_batch() -> nn.Module:
    return nn.Sequential(convolution(), nn.BatchNorm2d(3, track_running_stats=False))


def before_the_convolution() -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(3), convolution())


def with_statistics(network: nn.Module) -> nn.Module:
    """Give BatchNorm layers statistics and weights that a fold cannot get away with ignoring."""
    generator = torch.Generator().manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.running_mean, layer.running_var, layer.weight, layer.bias):
                if tensor is not None:
                    tensor.data.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def norms_left(network: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


def outputs_before_and_after(network: nn.Module) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        before = network(images)
        fold_batch_norms(network)
        return before, network(images)


@pytest.mark.parametrize(
    "build",
    [
        lambda: DnCNN(image_channels=3, depth=5, channels=8),
        lambda: CifarResNet(blocks=2, image_channels=3, class_count=10),
        lambda: SmallCNN(image_channels=3, class_count=10),
        lambda: nn.Sequential(convolution(), nn.BatchNorm2d(3, affine=False)),
        RegisteredTwice,
    ],
)
def test_every_batch_norm_behind_a_convolution_is_folded(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = with_statistics(build())
    assert norms_left(network) > 0
    before, after = outputs_before_and_after(network)
    assert norms_left(network) == 0
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "build",
    [
        CalledTwice,
        UsedTwice,
        WeightReadElsewhere,
        BranchingOnData,
        with_hook,
        sized_by_the_batch,
        before_the_convolution,
    ],
)
def test_what_cannot_be_folded_stays_exactly_as_it_is(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = with_statistics(build())
    before, after = outputs_before_and_after(network)
    assert norms_left(network) == 1
    assert torch.equal(after, before)


def test_a_sequence_is_folded_around_a_child_that_cannot_be_traced() -> None:
    torch.manual_seed(0)
    denoiser = DnCNN(image_channels=3, depth=4, channels=8)
    branching = BranchingOnData()
    network = with_statistics(nn.Sequential(denoiser, branching))
    before, after = outputs_before_and_after(network)
    assert norms_left(denoiser) == 0
    assert norms_left(branching) == 1
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
