"""MemNet as denoised smoothing published it: what its gates join, and what it adds."""

import pytest
import torch
from torch import Tensor, nn

from decrop.networks.memnet import MemNet

pytestmark = pytest.mark.usefixtures("one_thread")


def trained(image_channels: int = 2, channels: int = 4) -> MemNet:
    torch.manual_seed(0)
    network = MemNet(image_channels=image_channels, channels=channels)
    network.reconstruction[-1].reset_parameters()  # type: ignore[operator]
    network(torch.randn(8, image_channels, 9, 9))
    return network.eval()


@pytest.mark.parametrize(("image_channels", "channels"), [(3, 64), (1, 8)])
def test_layers_are_the_published_ones(image_channels: int, channels: int) -> None:
    network = MemNet(image_channels=image_channels, channels=channels)
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all(layer.bias is None for layer in convolutions)
    assert [layer.num_features for layer in norms] == [layer.in_channels for layer in convolutions]
    body = [(channels, channels, 3)] * 12
    expected = [(image_channels, channels, 3)]
    for block in (1, 2, 3):
        expected += [*body, ((6 + block) * channels, channels, 1)]
    expected += [(channels, image_channels, 3)]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0]) for c in convolutions] == expected


def test_denoiser_is_the_papers_equations() -> None:
    """Eqs. 3 to 8 of the paper, written out."""
    network = trained()
    images = torch.randn(2, 2, 7, 9)

    def activated(layers: nn.Module, maps: Tensor) -> Tensor:
        norm, _, convolution = layers.children()
        output: Tensor = convolution(torch.relu(norm(maps)))
        return output

    memories = [activated(network.feature_extraction, images)]
    for block in network.memory_blocks:
        recursion = [memories[-1]]
        for unit in block.units:  # type: ignore[union-attr]
            first, second = unit.children()
            recursion.append(activated(second, activated(first, recursion[-1])) + recursion[-1])
        joined = torch.cat(recursion[1:] + memories, dim=1)
        memories.append(activated(block.gate, joined))  # type: ignore[arg-type]
    expected = activated(network.reconstruction, memories[-1]) + images
    denoised = network(images)
    torch.testing.assert_close(denoised, expected)
    assert (denoised - images).abs().max() > 0.01
