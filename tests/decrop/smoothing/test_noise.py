import os
import subprocess
import sys
from functools import partial

import mpmath
import numpy as np
import pytest
import torch
from scipy.stats import chisquare, norm
from torch import Tensor, nn
from torch.nn import functional as F

from decrop.errors import InputError
from decrop.smoothing.certificates import SAMPLING_ERROR, cohen_certificates
from decrop.smoothing.collect import CountCollector
from decrop.smoothing.noise import (
    GridNoise,
    Noise,
    PixelGrid,
    _in_one_launch,
    by_search,
    key_words,
    philox,
    thresholds,
)
from decrop.smoothing.procedures import certify_fixed
from decrop.smoothing.sampling import LocalSampler, SamplingTask
from tests.cases import cases
from tests.decrop.smoothing.grid_noise import reference_steps

CPU = torch.device("cpu")
# From black to white: with one, two, four steps of the grid an 8-bit step.
SCALES = {0.25: 255, 1.0: 255, 0.02: 510, 0.01: 1020}
NAMES = [(7, 0, 0), (2**40, 1, 5)]


class LowBits(nn.Module):
    """Class 0 where a pixel near 0 has bits below 2^-32, which a sum with 1/255 never has."""

    def forward(self, images: Tensor) -> Tensor:
        small = images.abs() < 2**-10
        units = images * 2**32
        fine = (small & (units != units.round())).flatten(1).any(dim=1)
        return F.one_hot((~fine).long(), 2).float()


@pytest.mark.parametrize("noise", ["gaussian", "grid"])
def test_certificates_of_near_images_contradict_each_other_in_floating_point_alone(
    noise: Noise,
) -> None:
    black = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    task = SamplingTask(
        network=LowBits(),
        images=torch.cat([black, black + 1]),
        image_ids=torch.arange(2),
        class_count=2,
        sigma=0.25,
        seed=0,
        chunk_size=50,
        chunks_per_batch=4,
        precision="fp32",
        noise=noise,
    )
    found = certify_fixed(
        CountCollector.of(task, LocalSampler(task, CPU)),
        partial(cohen_certificates, sigma=0.25, failure_probability=0.001),
        selection_samples=50,
        estimation_samples=2_000,
    )
    distance = np.sqrt(3 * 32 * 32) / 255
    contradict = found.prediction[0] != found.prediction[1] and found.radius.min() > distance
    assert contradict == (noise == "gaussian")


@cases("sigma", SCALES)
def test_noise_is_the_inverse_distribution_function_of_the_bits(sigma: float) -> None:
    noise = GridNoise(sigma, 11, 50, CPU)
    assert noise.grid.scale == SCALES[sigma]
    found = noise.steps(NAMES, 4_001)
    for name, steps in zip(NAMES, found, strict=True):
        expected = reference_steps(11, name, (4_001,), sigma=sigma, scale=SCALES[sigma])
        assert steps.tolist() == expected.tolist()


@cases("sigma", SCALES)
def test_a_device_gives_the_integers_of_the_cpu(sigma: float) -> None:
    noise, keys = GridNoise(sigma, 0, 50, CPU), [2**127 + 3, 12]
    assert torch.equal(
        by_search(key_words(keys, CPU), noise._on_device, 100_003), noise._by_table(keys, 100_003)
    )


def test_random_bits_are_those_of_numpys_philox() -> None:
    keys = [0, 2**128 - 1, 0x0123456789ABCDEF_FEDCBA9876543210]
    expected = np.stack([np.random.Philox(key=key).random_raw(1_003) for key in keys])
    assert np.array_equal(philox(key_words(keys, CPU), 1_003).numpy().view(np.uint64), expected)


@cases("sigma", SCALES)
def test_probabilities_are_those_of_rounded_gaussian_noise(sigma: float) -> None:
    noise, samples = GridNoise(sigma, 0, 50, CPU), 10**7
    reach = noise.grid.reach(sigma)
    steps = noise.steps(NAMES[:1], samples)[0].numpy() + reach
    counts = np.bincount(steps, minlength=2 * reach + 1)
    edges = (np.arange(-reach, reach) + 0.5) / noise.grid.scale / sigma
    expected = samples * np.diff(norm.cdf(edges), prepend=0.0, append=1.0)
    # Tails are counted together from where fewer than ten are expected.
    first, last = np.flatnonzero(expected >= 10)[[0, -1]]
    bins = [0, *range(first, last + 1), last + 1]
    test = chisquare(*(np.add.reduceat(values, bins) for values in (counts, expected)))
    assert test.pvalue > 1e-3


def test_thresholds_are_exact_to_the_last_bit() -> None:
    found = thresholds(0.25, 255, 606)
    assert np.all(np.diff(found) >= 0)
    with mpmath.workdps(80):
        for j in (-606, -400, -1, 0, 1, 250, 605):
            exact = mpmath.ncdf((mpmath.mpf(j) + 0.5) / 255 / mpmath.mpf(0.25)) * 2**63
            assert found[j + 606] == int(mpmath.floor(exact))


@cases("sigma", SCALES)
def test_every_sum_of_integers_has_one_value(sigma: float) -> None:
    grid = PixelGrid.of(sigma)
    sums = torch.arange(grid.lowest - 3, grid.highest + 4, dtype=torch.int32)
    values = grid.pixels(sums)
    assert values.dtype == torch.float32
    assert torch.equal(
        (values.double() * grid.scale).round(), sums.clamp(grid.lowest, grid.highest)
    )
    assert len(values.unique()) == grid.highest - grid.lowest + 1
    images = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    noise = GridNoise(sigma, 0, 20, CPU)
    noisy = noise.noisy(images, [(image, 0, 0) for image in range(256)])
    numbers = (noisy.double() * grid.scale).round().int()
    assert torch.equal(noisy, grid.pixels(numbers))


def test_tails_are_cut_at_whole_numbers() -> None:
    grid = PixelGrid.of(0.05)
    assert (grid.lowest, grid.highest) == (-255, 510)
    assert grid.pixels(torch.tensor([-300, 600], dtype=torch.int32)).tolist() == [-1, 2]


def test_the_distance_to_the_grid_is_that_of_other_floats_alone() -> None:
    grid = PixelGrid.of(0.25)
    eight_bit = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert grid.distance(eight_bit).tolist() == [0]
    assert grid.distance(eight_bit.float() / 255).tolist() == [0]
    moved = eight_bit.float() / 255
    moved[0, 0, 0, :3] += torch.tensor([0.3, -0.4, 0.0]) / 255
    moved.clamp_(0, 1)
    assert torch.equal(grid.steps(moved), eight_bit.int())
    assert grid.distance(moved) == pytest.approx(np.hypot(0.3, 0.4) / 255, rel=1e-4)


@pytest.mark.parametrize("sigma", [1e-6, 1e-5, 0.25])
def test_no_distance_is_too_small_to_count(sigma: float) -> None:
    grid = PixelGrid.of(sigma)
    eight_bit = torch.arange(256).view(1, 1, 16, 16)
    assert grid.distance(eight_bit / 255).tolist() == [0]
    # Between values of 8 bits, half of the finest step away at most.
    images = ((eight_bit[..., :-1] + 0.3) / 255).float()
    exact = images.double() - grid.steps(images).double() / grid.scale
    assert grid.distance(images) == pytest.approx(exact.norm().item(), rel=1e-9)


def test_what_cannot_be_exact_is_refused() -> None:
    noise = GridNoise(1.0, 0, 50, CPU)
    # Thresholds times pixels times 2^-63.
    most = int(SAMPLING_ERROR * 2**63 / (2 * 1785 + 1))
    noise.check(most)
    with pytest.raises(InputError, match=f"up to {most} values, but these have {most + 1}"):
        noise.check(most + 1)
    assert max(PixelGrid.of(sigma).highest for sigma in (1e-6, 40.0)) < 2**24
    for sigma in (1e-7, 50.0, 1e300):
        with pytest.raises(InputError, match="noise on a grid must be from 1e-06 to 40"):
            PixelGrid.of(sigma)


def test_the_kernel_gives_the_same_noise() -> None:
    pytest.importorskip("triton", reason="comes with PyTorch for CUDA")
    # Triton decides at its import whether it interprets kernels.
    subprocess.run(
        [sys.executable, "-c", _INTERPRETED],
        check=True,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )


_INTERPRETED = """
import torch
from decrop.smoothing.noise import by_search, key_words, thresholds
from decrop.smoothing.noise_kernel import thresholds_passed
keys = key_words([0, 1, 2**127 + 2**64 - 1], torch.device("cpu"))
for sigma in (0.25, 1.0):
    limits = torch.from_numpy(thresholds(sigma, 255, 600))
    found, known = (f(keys, limits, 1_003) for f in (thresholds_passed, by_search))
    assert torch.equal(found, known)
"""


def test_without_a_kernel_that_works_noise_is_sampled_by_operations() -> None:
    class OnCuda:
        device = torch.device("cuda")

    with pytest.warns(RuntimeWarning, match="without its kernel, more slowly"):
        assert _in_one_launch(OnCuda()) is None  # type: ignore[arg-type]
