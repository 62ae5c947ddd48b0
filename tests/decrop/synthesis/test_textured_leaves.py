"""Textured leaves: one stream of images a seed, and each part of a scene does what it says."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from decrop.synthesis.dead_leaves import (
    Scene,
    Sizes,
    dead_leaves,
    scene,
    scene_shapes,
    uniform_numbers,
)
from decrop.synthesis.textured_leaves import (
    _at_points,
    _blurred,
    _in_focus,
    _textures,
    textured_leaves,
)
from tests.cases import cases

CPU = torch.device("cpu")


def drawn(count: int, *, channels: int = 3, seed: int = 0, side: int = 32) -> Tensor:
    return textured_leaves((count, channels, side, side), np.random.default_rng(seed))


def power(images: Tensor) -> Tensor:
    """Return the mean power of grey images at frequencies 1 to 15 periods a side."""
    grey = images.mean(1) if images.dim() == 4 else images
    window = torch.hann_window(32, periodic=False)
    centred = (grey - grey.mean((1, 2), keepdim=True)) * window[:, None] * window
    spectrum = torch.fft.fft2(centred).abs().square().mean(0)
    index = torch.fft.fftfreq(32) * 32
    ring = (index[:, None].square() + index.square()).sqrt().round()
    return torch.stack([spectrum[ring == f].mean() for f in range(1, 16)])


@pytest.fixture(scope="module")
def images() -> Tensor:
    return drawn(128)


@cases(("channels", "height", "width"), [(1, 8, 8), (3, 28, 20), (2, 1, 1), (3, 2, 5)])
def test_shape_type_and_range(channels: int, height: int, width: int) -> None:
    found = textured_leaves((5, channels, height, width), np.random.default_rng(0))
    assert found.shape == (5, channels, height, width)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all() and found.min() >= 0 and found.max() <= 1


def test_a_seed_gives_the_same_images_however_many_are_drawn_in_a_call(images: Tensor) -> None:
    generator = np.random.default_rng(0)
    parts = [textured_leaves((count, 3, 32, 32), generator) for count in (1, 70, 9)]
    # The last bits differ with the number of images that a matrix product is of.
    torch.testing.assert_close(torch.cat(parts), images[:80], rtol=0, atol=1e-5)
    assert torch.equal(drawn(128), images)
    assert ((drawn(8, seed=1) - images[:8]).abs().mean((1, 2, 3)) > 0.02).all()


def test_power_falls_with_frequency_as_in_photographs(images: Tensor) -> None:
    frequency = np.log(np.arange(1, 14))
    slope, _ = np.polyfit(frequency, power(images)[:13].log().numpy(), 1)
    # 2,000 images of CIFAR-10 give -2.9, white noise 0.
    assert -3.3 < slope < -2


def test_images_show_fewer_and_larger_things_than_dead_leaves(images: Tensor) -> None:
    others = dead_leaves((128, 3, 32, 32), np.random.default_rng(0))
    low, high = slice(0, 3), slice(8, 15)
    found, other = power(images), power(others)
    assert found[low].sum() / found[high].sum() > 1.5 * other[low].sum() / other[high].sum()


def test_textures_are_standardised_periodic_and_of_two_kinds() -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.rand(64, 6, 2, generator=generator)
    found = _textures(numbers, torch.rand(64, 2, 64, 33, generator=generator))
    assert found.shape == (64, 4, 64, 64)
    assert found.mean((2, 3)).abs().max() < 0.5
    torch.testing.assert_close(found[:, :2].std((2, 3)), torch.ones(64, 2))
    assert found[:, 2:].std((2, 3)).min() > 0.5 and found[:, 2:].std((2, 3)).max() < 1.6
    # Across the border a texture goes on as it does inside.
    inside = found.diff(dim=2).square().mean()
    border = (found[:, :, 0] - found[:, :, -1]).square().mean()
    assert (border / inside).item() == pytest.approx(1, abs=0.2)
    # A large exponent leaves low frequencies alone.
    smooth, rough = numbers.clone(), numbers.clone()
    smooth[:, 0], rough[:, 0] = 1, 0
    phases = torch.rand(64, 2, 64, 33, generator=generator)
    steps = [_textures(n, phases)[:, 0].diff(dim=1).square().mean() for n in (smooth, rough)]
    assert steps[0] < 0.3 * steps[1]


def roughness(images: Tensor) -> float:
    return images.diff(dim=2).std().item()


def _scene() -> tuple[int, Scene]:
    sizes = Sizes(32, 32)
    shapes = scene_shapes(3, sizes)
    return shapes[-1][0], scene(uniform_numbers(2, shapes, np.random.default_rng(3)), sizes, CPU)


def test_a_texture_is_seen_at_its_scale_and_nowhere_without_contrast() -> None:
    leaves, painted = _scene()
    textures = torch.sin(2 * math.pi * 8 * torch.arange(64) / 64).expand(2, 4, 64, 64)
    # Scale 1, upright, no perspective.
    numbers = np.full((2, 7, leaves), 0.5, np.float32)
    numbers[:, 1] = math.log(1 / 0.5) / math.log(2.5 / 0.5)
    numbers[:, 2] = numbers[:, 5] = 0
    grey = np.full((2, leaves, 3), 0.5, np.float32)
    flat = _at_points(painted, textures, numbers, np.zeros((2, leaves)), grey)
    assert not flat.any()
    shown = _at_points(painted, textures, numbers, np.ones((2, leaves)), grey)
    largest = painted.topmost[0].flatten().bincount().argmax()
    inside = painted.topmost[0] == largest
    eight_on = inside[:, :-8] & inside[:, 8:]
    four_on = inside[:, :-4] & inside[:, 4:]
    same = shown[0, 0, :, 8:][eight_on] - shown[0, 0, :, :-8][eight_on]
    opposite = shown[0, 0, :, 4:][four_on] + shown[0, 0, :, :-4][four_on]
    assert same.abs().max() < 1e-4 and opposite.abs().max() < 1e-4
    assert shown.abs().max() > 0.5
    numbers[:, 5] = 1
    seen = _at_points(painted, textures, numbers, np.ones((2, leaves)), grey)
    assert (seen - shown).abs().max() > 0.5


def test_out_of_focus_blurs_one_side_of_a_leaf_alone() -> None:
    _, painted = _scene()
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(2, 3, 64, 64, generator=generator)
    above = torch.zeros(2, 1, 64, 64)
    above[..., :32] = 1
    none, some = torch.zeros(2), torch.full((2,), 1.5)
    sharp = painted.pixels(points)
    torch.testing.assert_close(_in_focus(painted, points, above, none, none), sharp)
    behind = _in_focus(painted, points, above, some, none)
    torch.testing.assert_close(behind[..., :16], sharp[..., :16])
    assert roughness(behind[..., 16:]) < 0.3 * roughness(sharp[..., 16:])
    before = _in_focus(painted, points, above, none, some)
    torch.testing.assert_close(before[..., 24:], sharp[..., 24:], rtol=0, atol=1e-3)
    assert roughness(before[..., :12]) < 0.3 * roughness(sharp[..., :12])


def test_a_blur_is_a_gaussian_that_keeps_means() -> None:
    spot = torch.zeros(1, 1, 41, 41)
    spot[..., 20, 20] = 1
    blurred = _blurred(spot, torch.tensor([2.0]))[0, 0]
    place = torch.arange(41) - 20.0
    assert blurred.sum().item() == pytest.approx(1, abs=1e-4)
    assert (blurred.sum(0) * place.square()).sum().item() == pytest.approx(4, rel=0.01)
    flat = torch.full((2, 3, 7, 9), 0.3)
    torch.testing.assert_close(_blurred(flat, torch.tensor([0.0, 3.0])), flat)
