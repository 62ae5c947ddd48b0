from collections.abc import Callable

import torch
from torch import Tensor, nn

from decrop.config import DenoiserSettings
from decrop.config.classifier_source import CLASSIFIERS
from decrop.config.denoiser import DENOISERS
from decrop.networks.dncnn import DnCNN
from decrop.networks.registry import (
    build_classifier_network,
    build_denoiser,
)
from decrop.networks.resnet import CifarResNet
from decrop.networks.small_cnn import SmallCNN
from decrop.smoothing.prepare import fold_batch_norms
from decrop.smoothing.sampling import ESTIMATION, CountRequest, LocalSampler, SamplingTask
from tests.cases import cases

NETWORKS = [name for name in DENOISERS if name != "none"]


def convolution() -> nn.Conv2d:
    return nn.Conv2d(3, 3, 3, padding=1)


class Normalised(nn.Module):
    """A convolution and its BatchNorm, used as a subclass says."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = convolution(), nn.BatchNorm2d(3)


class CalledTwice(Normalised):
    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.norm(self.convolution(self.convolution(images)))
        return output


class UsedTwice(Normalised):
    def forward(self, images: Tensor) -> Tensor:
        maps = self.convolution(images)
        output: Tensor = self.norm(maps) + maps
        return output


class WeightReadElsewhere(Normalised):
    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.norm(self.convolution(images)) * self.convolution.weight.sum()
        return output


class BranchingOnData(Normalised):
    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.convolution(images))
        output: Tensor = maps if maps.sum() > 0 else -maps
        return output


class RegisteredTwice(Normalised):
    def __init__(self) -> None:
        super().__init__()
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


@cases(
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


@cases(
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


# What is left: in MemNet one BatchNorm of each of the 18 units, which follows an addition, those of
# the images and of 3 gates; in AlexNet all 5, which follow ReLU or pooling.
@cases("architecture", [*NETWORKS, *CLASSIFIERS])
def test_every_registered_network_is_folded_where_it_can_be(
    architecture: str,
) -> None:
    torch.manual_seed(0)
    network = with_statistics(registered(architecture))
    images = torch.rand(2, 3, 17, 20, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        before = network(images)
        fold_batch_norms(network)
        after = network(images)
    left = {"memnet": 22, "alexnet": 5, "half_alexnet": 5}
    assert norms_left(network) == left.get(architecture, 0)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4 * float(before.abs().max()))


def registered(architecture: str) -> nn.Module:
    if architecture in CLASSIFIERS:
        return build_classifier_network(architecture, image_channels=3, class_count=10)
    settings = DenoiserSettings(source=architecture, depth=5, channels=8)
    denoiser = build_denoiser(settings, image_channels=3)
    convolutions = [weight for weight in denoiser.parameters() if weight.ndim == 4]
    # The last layer, which starts at zero.
    convolutions[-1].data.normal_(0, 0.1)
    if architecture == "ffdnet":
        # Without norms or shortcuts little of an image comes through twelve untrained layers.
        for weight in convolutions:
            nn.init.kaiming_normal_(weight)
    return denoiser


class Untraceable(nn.Module):
    """The same network, with a branch on the data that keeps it from being folded."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[0] < 0:
            return images
        logits: Tensor = self.network(images)
        return logits


@cases("architecture", NETWORKS)
def test_certification_counts_the_same_classes_folded_or_not(
    architecture: str,
) -> None:
    torch.manual_seed(0)
    denoiser = with_statistics(registered(architecture))
    # Its class changes with the noise, so that the counts say something about every sample.
    network = nn.Sequential(denoiser, nn.Flatten(), nn.Linear(3 * 9 * 10, 10)).eval()

    def counts(prepared: nn.Module) -> list[list[int]]:
        task = SamplingTask(
            network=prepared,
            images=torch.randint(
                0, 256, (3, 3, 9, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
            ),
            image_ids=torch.arange(3),
            class_count=10,
            sigma=0.5,
            seed=0,
            chunk_size=16,
            chunks_per_batch=1,
            precision="fp32",
        )
        requests = [CountRequest(image, ESTIMATION, 0, 16) for image in range(3)]
        found: list[list[int]] = (
            LocalSampler(task, torch.device("cpu")).class_counts(requests).tolist()
        )
        return found

    folded = counts(network)
    assert folded == counts(Untraceable(network))
    assert all(sum(of_image) == 16 for of_image in folded)
    assert max(map(max, folded)) < 16
