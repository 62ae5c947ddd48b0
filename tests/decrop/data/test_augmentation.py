"""Policies against torchvision, image by image, and the distribution of their draws."""

from collections import Counter
from itertools import product

import pytest
import torch
from scipy.stats import binomtest, chisquare, kstest
from torch import Tensor

from decrop import _torchvision  # noqa: F401  # before torchvision itself is imported
from decrop.config import AugmentationPolicy, AugmentationSettings
from decrop.data.augmentation import POLICIES, Affine, CropAndFlips, moved
from decrop.seeds import torch_generator

HEIGHT, WIDTH = 8, 12
BATCH = 800


def settings(
    policy: AugmentationPolicy, padding: int = 1, flip: float = 0.5
) -> AugmentationSettings:
    return AugmentationSettings(policy=policy, crop_padding=padding, flip_probability=flip)


def drawn(policy: AugmentationPolicy, flip: float = 0.5) -> tuple[CropAndFlips, Affine]:
    crop, affine = POLICIES[policy](
        torch.Size([BATCH, 1, HEIGHT, WIDTH]), settings(policy, flip=flip), torch_generator(0)
    )
    assert isinstance(crop, CropAndFlips)
    assert isinstance(affine, Affine)
    return crop, affine


def numbered(count: int) -> Tensor:
    """Return images of which no pixel has the value of another, none zero."""
    pixels = torch.arange(1.0, count * HEIGHT * WIDTH + 1)
    return pixels.reshape(count, 1, HEIGHT, WIDTH)


def by_torchvision(image: Tensor, crop: CropAndFlips, affine: Affine, row: int) -> Tensor:
    from torchvision.transforms import v2

    functional = v2.functional
    image = functional.pad(image, [crop.padding] * 4)
    image = functional.crop(image, int(crop.top[row]), int(crop.left[row]), HEIGHT, WIDTH)
    if crop.horizontal[row]:
        image = functional.horizontal_flip(image)
    if crop.vertical[row]:
        image = functional.vertical_flip(image)
    result: Tensor = functional.affine(
        image,
        angle=float(affine.degrees[row]),
        translate=[int(affine.right[row]), int(affine.down[row])],
        scale=1.0,
        shear=[0.0, 0.0],
    )
    return result


@pytest.mark.parametrize("policy", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_image_is_moved_as_torchvision_moves_one(
    policy: AugmentationPolicy, dtype: torch.dtype
) -> None:
    images = numbered(BATCH).to(dtype)
    crop, affine = drawn(policy)
    (result,) = moved([images], settings(policy), torch_generator(0))
    for row in range(0, BATCH, 8):
        expected = by_torchvision(images[row], crop, affine, row)
        assert torch.equal(result[row], expected), row


def test_policy_2_does_one_of_four_as_often_as_another() -> None:
    crop, affine = drawn(2, flip=1.0)
    moves = torch.stack(
        [
            crop.horizontal,
            crop.vertical,
            (crop.top != 1) | (crop.left != 1),
            affine.degrees != 0,
        ]
    )
    assert moves.sum(0).max() == 1
    # One of nine crops leaves the image as it is.
    counts = moves.sum(1) * torch.tensor([1, 1, 9 / 8, 1])
    assert chisquare([*counts.tolist()[:3], BATCH - counts[:3].sum().item()]).pvalue > 1e-3
    assert ((affine.right != 0) | (affine.down != 0))[affine.degrees == 0].sum() == 0


@pytest.mark.parametrize(("flip", "horizontal", "vertical"), [(0.5, 1 / 8, 1 / 8), (0.0, 0.0, 0.0)])
def test_flips_of_policy_2_have_their_probability(
    flip: float, horizontal: float, vertical: float
) -> None:
    crop, _ = drawn(2, flip=flip)
    for flips, probability in ((crop.horizontal, horizontal), (crop.vertical, vertical)):
        assert binomtest(int(flips.sum()), BATCH, probability).pvalue > 1e-3


def test_policy_3_draws_all_four_independently() -> None:
    crop, affine = drawn(3, flip=0.3)
    combinations = Counter(
        zip(
            crop.horizontal.tolist(),
            crop.vertical.tolist(),
            (affine.degrees > 0).tolist(),
            strict=True,
        )
    )
    keys = list(product([False, True], [False, True], [False, True]))
    expected = [BATCH * (0.3 if h else 0.7) * (0.3 if v else 0.7) / 2 for h, v, _ in keys]
    assert chisquare([combinations[key] for key in keys], expected).pvalue > 1e-3
    corners = Counter(zip(crop.top.tolist(), crop.left.tolist(), strict=True))
    assert len(corners) == 9
    assert chisquare(list(corners.values())).pvalue > 1e-3


def test_affine_draws_have_the_papers_ranges() -> None:
    _, affine = drawn(3)
    assert kstest(affine.degrees.numpy(), "uniform", (-10, 20)).pvalue > 1e-3
    # A quarter of the width and half of the height, rounded: the outermost are half as likely.
    for shifts, most in ((affine.right, WIDTH // 4), (affine.down, HEIGHT // 2)):
        assert torch.equal(shifts, shifts.round())
        counts = Counter(shifts.int().tolist())
        places = range(-most, most + 1)
        expected = [BATCH / (2 * most) * (0.5 if abs(p) == most else 1) for p in places]
        assert chisquare([counts[place] for place in places], expected).pvalue > 1e-3
    together = torch.stack([affine.degrees, affine.right, affine.down])
    assert torch.corrcoef(together).triu(1).abs().max() < 4 / BATCH**0.5


def test_affine_draws_go_as_far_as_the_settings_say() -> None:
    strength = {"rotation_degrees": 40.0, "translation_width": 0.5, "translation_height": 0.0}
    given = AugmentationSettings(policy=3, **strength)
    _, affine = POLICIES[3](torch.Size([BATCH, 1, HEIGHT, WIDTH]), given, torch_generator(0))
    assert isinstance(affine, Affine)
    assert kstest(affine.degrees.numpy(), "uniform", (-40, 80)).pvalue > 1e-3
    assert affine.right.abs().max() == WIDTH / 2
    assert not affine.down.any()


def test_no_policy_draws_nothing() -> None:
    images = numbered(2)
    generator = torch_generator(0)
    state = generator.get_state()
    (result,) = moved([images], settings("none"), generator)
    assert torch.equal(result, images)
    assert torch.equal(generator.get_state(), state)
