"""Dead leaves: one stream of images a seed, with the statistics that the model is known for."""

import numpy as np
import pytest
import torch
from torch import Tensor

from decrop.synthesis.dead_leaves import Sizes, dead_leaves
from tests.cases import cases

COUNT = 192


def drawn(
    count: int,
    *,
    channels: int = 3,
    height: int = 32,
    width: int = 32,
    generator: np.random.Generator | None = None,
) -> Tensor:
    shape = count, channels, height, width
    return dead_leaves(shape, generator or np.random.default_rng(0))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return drawn(COUNT)


def log_log_slope(frequency: Tensor, power: Tensor) -> float:
    slope, _ = np.polyfit(frequency.log().numpy(), power.log().numpy(), 1)
    return float(slope)


# The stream of images.


@cases(("channels", "height", "width"), [(1, 8, 8), (3, 32, 32), (1, 28, 20), (3, 2, 5), (2, 1, 1)])
def test_shape_type_and_range(channels: int, height: int, width: int) -> None:
    images = drawn(5, channels=channels, height=height, width=width)
    assert images.shape == (5, channels, height, width)
    assert images.dtype == torch.float32
    assert torch.isfinite(images).all()
    assert images.min() >= 0
    assert images.max() <= 1


def test_no_images() -> None:
    assert drawn(0).shape == (0, 3, 32, 32)


def test_a_seed_gives_the_same_images_however_many_are_drawn_in_a_call(images: Tensor) -> None:
    generator = np.random.default_rng(0)
    in_parts = [drawn(count, generator=generator) for count in (1, 70, 9)]
    assert torch.equal(torch.cat(in_parts), images[:80])


def test_another_seed_gives_other_images(images: Tensor) -> None:
    other = drawn(8, generator=np.random.default_rng(1))
    assert ((other - images[:8]).abs().mean((1, 2, 3)) > 0.02).all()


def test_global_generators_have_no_say(images: Tensor) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.random.get_rng_state()
    assert torch.equal(drawn(3), images[:3])
    assert torch.equal(torch.random.get_rng_state(), before)


# Statistics.


def test_radii_follow_the_power_law_of_those_that_reach_into_the_image() -> None:
    sizes = Sizes(32, 32)
    uniform = (np.arange(200_000) + 0.5) / 200_000
    radii = sizes.radii(uniform, np.array(1.0))
    assert radii.min() == pytest.approx(1, abs=1e-3)
    assert radii.max() <= 16
    edges = np.geomspace(1, 16, 13)
    found, _ = np.histogram(radii, edges)
    steps = np.linspace(edges[:-1], edges[1:], 101)
    density = np.trapezoid(steps**-3 * (32 + 2 * steps) ** 2, steps, axis=0)
    assert found / found.sum() == pytest.approx(density / density.sum(), rel=0.02)


def test_leaf_count_gives_the_coverage() -> None:
    for smallest in (1.0, 2.5):
        sizes = Sizes(32, 32)
        count = float(sizes.count(np.array(smallest)))
        radii = sizes.radii((np.arange(20_000) + 0.5) / 20_000, np.array(smallest))
        # A leaf of area a with its centre anywhere in (32 + 2 r)^2 covers a point with this chance.
        coverage = count * np.mean(2.0 * radii**2 / (32 + 2 * radii) ** 2)
        assert coverage == pytest.approx(3, rel=0.03)


def test_power_falls_with_frequency_as_in_natural_images(images: Tensor) -> None:
    grey = images.mean(1)
    window = torch.hann_window(32, periodic=False)
    centred = (grey - grey.mean((1, 2), keepdim=True)) * window[:, None] * window
    power = torch.fft.fft2(centred).abs().square().mean(0)
    index = torch.fft.fftfreq(32) * 32
    ring = (index[:, None].square() + index.square()).sqrt().round()
    frequency = torch.arange(1, 14)
    radial = torch.stack([power[ring == f].mean() for f in frequency])
    # White noise gives 0, smooth images below -4.
    assert -3 < log_log_slope(frequency, radial) < -1.8


def test_differences_of_neighbours_are_sparse(images: Tensor) -> None:
    # Flat regions and sharp edges: a normal distribution has kurtosis 3.
    difference = (images[..., 1:] - images[..., :-1]).mean(1).flatten()
    kurtosis = difference.pow(4).mean() / difference.square().mean().square()
    assert kurtosis > 6
    assert (difference.abs() < 0.02).float().mean() > 0.3
    assert (difference.abs() > 0.1).float().mean() > 0.05


def test_images_have_edges_of_every_direction(images: Tensor) -> None:
    across = (images[..., 1:] - images[..., :-1]).square().mean()
    down = (images[..., 1:, :] - images[..., :-1, :]).square().mean()
    assert across / down == pytest.approx(1, rel=0.15)


def test_no_image_is_constant_and_palettes_vary(images: Tensor) -> None:
    assert images.std((2, 3)).mean(1).min() > 0.02
    means = images.mean((2, 3))
    assert means.mean().item() == pytest.approx(0.5, abs=0.05)
    assert 0.08 < means.mean(1).std() < 0.25
    hue = means - means.mean(1, keepdim=True)
    assert (hue.std(0) > 0.01).all()
    # Brightness varies more than hue inside an image, as in natural images.
    inside = images - images.mean((2, 3), keepdim=True)
    brightness = inside.mean(1, keepdim=True)
    ratio = (inside - brightness).square().mean() / brightness.square().mean()
    assert 0.02 < ratio < 0.5


def test_position_in_the_image_makes_no_difference(images: Tensor) -> None:
    # Leaves come in from outside, so borders have as many edges as the middle.
    difference = (images[..., 1:] - images[..., :-1]).square().mean((0, 1, 2))
    middle = difference[10:21].mean()
    assert difference[:5].mean() / middle == pytest.approx(1, abs=0.25)
    assert difference[-5:].mean() / middle == pytest.approx(1, abs=0.25)
    background = images.mean((0, 1))
    assert background.std() < 0.05


def test_grey_images_have_the_same_structure_without_hue() -> None:
    grey = drawn(64, channels=1)
    assert grey.std((2, 3)).min() > 0.02
    assert grey.mean().item() == pytest.approx(0.5, abs=0.07)
