import pytest
import torch
from torch import nn

from decrop.rejection.network import Rejector


def built(**changes: object) -> Rejector:
    sizes = {
        "image_channels": 3,
        "class_count": 10,
        "feature_channels": (16, 32, 64),
        "width": 64,
        "blocks": (3, 4, 6, 3),
        "hidden_units": 512,
        **changes,
    }
    return Rejector(**sizes).eval()  # type: ignore[arg-type]


def test_the_published_size_is_a_resnet_34_with_three_linear_layers() -> None:
    rejector = built(feature_channels=())
    backbone = sum(p.numel() for name, p in rejector.named_parameters() if "heads" not in name)
    # torchvision's ResNet-34 has 21,797,672, of which 513,000 in its linear layer and 9,408 in the
    # 7x7 stem, in whose place is a 3x3 one of 1,728.
    assert backbone == 21_797_672 - 513_000 - 9_408 + 1_728
    linear = [layer for layer in rejector.modules() if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linear] == [512, 512, 10]


def test_maps_are_appended_after_each_block_the_last_again() -> None:
    # So many units that some are alive: with 8 a change was lost now and then.
    rejector = built(width=4, blocks=(1, 1, 1, 1), hidden_units=64)
    inputs = [block[0].conv1.in_channels for block in rejector.blocks]
    assert inputs == [4, 4 + 16, 8 + 32, 16 + 64]
    assert rejector.heads[0].in_features == 32 + 64
    images = torch.rand(2, 3, 32, 32)
    maps = [torch.rand(2, 16, 32, 32), torch.rand(2, 32, 16, 16), torch.rand(2, 64, 8, 8)]
    heads = rejector(images, maps)
    assert heads.shape == (2, 10)
    for number in range(3):
        changed = [m + (1.0 if n == number else 0.0) for n, m in enumerate(maps)]
        assert not torch.allclose(rejector(images, changed), heads)


@pytest.mark.parametrize("size", [(3, 3), (16, 16), (40, 24)])
def test_maps_of_any_size_fit(size: tuple[int, int]) -> None:
    rejector = built(width=4, blocks=(1, 1, 1, 1), hidden_units=8, feature_channels=(5,))
    assert rejector(torch.rand(2, 3, 17, 20), [torch.rand(2, 5, *size)]).shape == (2, 10)


def test_without_maps_it_sees_the_image_alone() -> None:
    rejector = built(width=4, blocks=(1, 2, 1, 1), hidden_units=8, feature_channels=())
    assert rejector(torch.rand(2, 3, 8, 8), []).shape == (2, 10)
