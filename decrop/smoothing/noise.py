"""The noise of certification, in whole steps of a grid of pixel values or as floating point has it.

Cohen's theorem adds real numbers. A floating-point sum of an image and Gaussian noise is rounded in
a way that tells which image it came from, so a network may answer by these last bits, and its
certificates be wrong (Voráček and Hein, Sound Randomized Smoothing in Floating-Point Arithmetics,
ICLR 2023). On a grid nothing is rounded: an image is integers k, noise is integers j whose
probabilities are those of Gaussian noise rounded to the grid, and a network sees k + j. That is
what it would see of the image with real noise if it began with rounding Q: for k on the grid
Q(k + noise) = k + Q(noise). So the theorem holds for the network behind Q, against every real
perturbation.

Shapes: P chunks, S samples in a chunk, C channels, H height, W width.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Self

import mpmath
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decrop.errors import InputError, one_line
from decrop.seeds import derive_key, torch_generator
from decrop.smoothing.certificates import SAMPLING_ERROR
from decrop.smoothing.execution import to_device

Noise = Literal["grid", "gaussian"]
# Number of an image in its split, stream, and number of the chunk in the stream.
ChunkName = tuple[int, int, int]

_LEVELS = 255
# In between a grid has fewer than 2^24 steps, up to where fp32 has all integers, and its thresholds
# are computed in seconds.
_SMALLEST_SIGMA = 1e-6
_LARGEST_SIGMA = 40.0
# The grid is so fine that sigma is at least so many steps.
_LEAST_STEPS = 8
# Beyond so many standard deviations a pixel's noise is cut, as a part of the network.
_CUT = 6
_BITS = 63
# Of so many standard deviations noise has a probability far below 2^-63.
_FARTHEST = 9.5
_GUIDE_BITS = 16
_DECIMALS = 60
# A float32 that is so near to a value of 8 bits stands for it; the finest grid's steps are larger.
_ROUNDED = 2.0**-24
# Keys, and words under each, with which the kernel is tried.
_TRIED_KEYS, _TRIED = 3, 4_097


@dataclass(frozen=True)
class PixelGrid:
    """Multiples of 1 / scale, cut at whole numbers; numbered by integers.

    Attributes:
        scale: steps from black to white, a multiple of 255, so every 8-bit image is on the grid.
        lowest: least step, where what is below is cut.
        highest: largest step.
    """

    scale: int
    lowest: int
    highest: int

    @classmethod
    def of(cls, sigma: float) -> Self:
        """Return the grid for noise of a standard deviation in [0,1] pixels, > 0."""
        if not _SMALLEST_SIGMA <= sigma <= _LARGEST_SIGMA:
            raise InputError(
                f"sigma = {sigma:g}: noise on a grid must be from {_SMALLEST_SIGMA:g} to "
                f"{_LARGEST_SIGMA:g} in [0,1] pixels; choose such a sigma, or certification.noise "
                "= gaussian."
            )
        scale = _LEVELS * max(1, int(np.ceil(_LEAST_STEPS / _LEVELS / sigma)))
        cut = max(1, int(np.ceil(_CUT * sigma)))
        return cls(scale=scale, lowest=-cut * scale, highest=(1 + cut) * scale)

    def reach(self, sigma: float) -> int:
        """Return the largest number of steps of noise: more would be cut, or never happens."""
        return min(self.highest, int(np.ceil(_FARTHEST * sigma * self.scale)))

    def steps(self, images: Tensor) -> Tensor:
        """Return the nearest grid points of images uint8, or float in [0,1], int32."""
        if images.dtype == torch.uint8:
            return images.to(torch.int32) * (self.scale // _LEVELS)
        return (images.double() * self.scale).round().to(torch.int32)

    def pixels(self, steps: Tensor) -> Tensor:
        """Return grid points as float32 in [0,1] pixels, one value for each integer."""
        return steps.clamp(self.lowest, self.highest).float().div_(self.scale)

    def distance(self, images: Tensor) -> NDArray[np.float64]:
        """Return how far images [B, C, H, W] are from their nearest grid points, float64 [B].

        In the L2 norm of [0,1] pixels. A float32 as near to a value of 8 bits as rounding leaves
        it stands for that.
        """
        if images.dtype == torch.uint8:
            return np.zeros(len(images))
        given = images.double()
        rounded = (given - (given * _LEVELS).round() / _LEVELS).abs() <= _ROUNDED
        away = torch.where(rounded, 0.0, given - self.steps(images).double() / self.scale)
        distance: NDArray[np.float64] = away.flatten(1).norm(dim=1).cpu().numpy()
        return distance


class GaussianNoise:
    """Gaussian noise of PyTorch's generators added in fp32, as published.

    Its bits depend on the kind of device, and the sum is rounded.
    """

    def __init__(self, sigma: float, seed: int, chunk_size: int, device: torch.device) -> None:
        """Take the standard deviation in [0,1] pixels, the seed and S."""
        self._sigma = sigma
        self._seed = seed
        self._chunk_size = chunk_size
        self._device = device

    def noisy(self, images: Tensor, names: Sequence[ChunkName]) -> Tensor:
        """Return float32 [P, S, C, H, W] of images [P, C, H, W], one chunk of noise each."""
        shape = (self._chunk_size, *images.shape[1:])
        chunks = []
        for image, name in zip(as_pixels(images), names, strict=True):
            generator = torch_generator(
                self._seed, "certification noise", *name, device=self._device
            )
            noise = torch.randn(shape, generator=generator, device=self._device)
            chunks.append(noise.mul_(self._sigma).add_(image))
        return torch.stack(chunks)


class GridNoise:
    """Gaussian noise rounded to a grid, from counter-based bits: the same on every kind of device.

    The noise of a pixel is the inverse distribution function of 63 random bits: those of a chunk
    are the output of Philox 4x64-10 (Salmon et al. 2011) under a 128-bit key of its own, in the
    order of samples, channels, rows and columns.
    """

    def __init__(self, sigma: float, seed: int, chunk_size: int, device: torch.device) -> None:
        """Take the standard deviation in [0,1] pixels, the seed and S."""
        self.grid = PixelGrid.of(sigma)
        self._seed = seed
        self._chunk_size = chunk_size
        self._device = device
        self._reach = self.grid.reach(sigma)
        self._thresholds = thresholds(sigma, self.grid.scale, self._reach)
        self._guide = _guide(self._thresholds)
        self._on_device = torch.from_numpy(self._thresholds).to(device)
        self._passed = _in_one_launch(self._on_device) or by_search

    def noisy(self, images: Tensor, names: Sequence[ChunkName]) -> Tensor:
        """Return float32 [P, S, C, H, W] of images [P, C, H, W], one chunk of noise each."""
        shape = (len(names), self._chunk_size, *images.shape[1:])
        self.check(images[0].numel())
        noise = self.steps(names, self._chunk_size * images[0].numel()).view(shape)
        return self.grid.pixels(noise.add_(self.grid.steps(images)[:, None]))

    def steps(self, names: Sequence[ChunkName], count: int) -> Tensor:
        """Return the first steps of noise of some chunks, int32 [P, count], on the device."""
        keys = [derive_key(self._seed, "grid noise", *name) for name in names]
        if self._device.type == "cpu":
            return self._by_table(keys, count).sub_(self._reach)
        return self._passed(key_words(keys, self._device), self._on_device, count).sub_(self._reach)

    def check(self, pixels: int) -> None:
        """Check that a sample of an image of so many pixels is exact enough.

        The probabilities of a pixel's noise are off by at most 2^-63 at each threshold, so the
        total variation between what is sampled and what is meant is at most so many thresholds and
        pixels times that.
        """
        most = int(SAMPLING_ERROR * 2**_BITS / (2 * self._reach + 1))
        if pixels > most:
            raise InputError(
                f"noise on a grid is exact enough for images of up to {most} values, but these "
                f"have {pixels}; shrink them, or set certification.noise = gaussian."
            )

    def _by_table(self, keys: Sequence[int], count: int) -> Tensor:
        """Return thresholds passed, int32 [P, count]: a search only where a threshold is near."""
        passed = np.empty((len(keys), count), dtype=np.int32)
        for row, key in zip(passed, keys, strict=True):
            bits = (np.random.Philox(key=key).random_raw(count) >> np.uint64(1)).view(np.int64)
            np.take(self._guide, bits >> (_BITS - _GUIDE_BITS), out=row)
            near = np.flatnonzero(row < 0)
            row[near] = np.searchsorted(self._thresholds, bits[near], side="right")
        return torch.from_numpy(passed)


# Of the halves of keys, int64 [P, 2], thresholds, int64 [L], and a count: how many of them the
# random bits have passed, int32 [P, count].
ThresholdsPassed = Callable[[Tensor, Tensor, int], Tensor]


def by_search(keys: Tensor, limits: Tensor, count: int) -> Tensor:
    """Return thresholds passed, int32 [P, count], by ordinary operations (`ThresholdsPassed`)."""
    bits = (philox(keys, count) >> 1) & (2**_BITS - 1)
    return torch.searchsorted(limits, bits, right=True, out_int32=True)


def _in_one_launch(limits: Tensor) -> ThresholdsPassed | None:
    """Return the same as a kernel where there is one that works: on CUDA, with Triton."""
    if limits.device.type != "cuda":
        return None
    try:
        from decrop.smoothing.noise_kernel import thresholds_passed

        keys = key_words(list(range(_TRIED_KEYS)), limits.device)
        found, known = (passed(keys, limits, _TRIED) for passed in (thresholds_passed, by_search))
        if torch.equal(found, known):
            return thresholds_passed
        reason = "it gives other noise"
    except Exception as error:  # no Triton, no compiler, an old device: all raise their own
        reason = f"{type(error).__name__}: {error}"
    warnings.warn(
        f"noise is sampled without its kernel, more slowly ({one_line(reason, 200)}).",
        RuntimeWarning,
        stacklevel=4,
    )
    return None


def noise_source(
    kind: Noise, *, sigma: float, seed: int, chunk_size: int, device: torch.device
) -> GridNoise | GaussianNoise:
    """Return what adds noise of a kind."""
    source = GridNoise if kind == "grid" else GaussianNoise
    return source(sigma, seed, chunk_size, device)


@lru_cache(maxsize=16)
def thresholds(sigma: float, scale: int, reach: int) -> NDArray[np.int64]:
    """Return floor(2^63 Phi((j + 1/2) / (scale sigma))) for j in [-reach, reach), int64 [2 reach].

    The noise is -reach plus the number of thresholds that are at most the random bits.
    """
    with mpmath.workdps(_DECIMALS):
        step = 1 / (mpmath.mpf(scale) * mpmath.mpf(sigma))
        tails = [mpmath.ncdf(-(j + 0.5) * step) * 2**_BITS for j in range(reach)]
        below = [int(mpmath.floor(tail)) for tail in reversed(tails)]
        above = [2**_BITS - int(mpmath.ceil(tail)) for tail in tails]
    return np.array([*below, *above], dtype=np.int64)


def key_words(keys: Sequence[int], device: torch.device) -> Tensor:
    """Return the lower and the upper halves of keys of 128 bits, int64 [P, 2]."""
    return to_device([[_signed(key), _signed(key >> 64)] for key in keys], device)


def philox(keys: Tensor, count: int) -> Tensor:
    """Return the outputs of Philox 4x64-10 as int64 [P, count], bit for bit those of NumPy's.

    Salmon, Moraes, Dror and Shaw 2011, Parallel random numbers: as easy as 1, 2, 3. The counter
    begins at 1.

    Args:
        keys: int64 [P, 2] (`key_words`).
        count: of 64-bit words under each key.
    """
    low_key, high_key = keys[:, :1], keys[:, 1:]
    blocks = torch.arange(1, -(-count // 4) + 1, device=keys.device).expand(len(keys), -1)
    zero = torch.zeros_like(blocks)
    a, b, c, d = blocks, zero, zero, zero
    for _ in range(10):
        (high_a, low_a), (high_c, low_c) = (
            _product(_MULTIPLIERS[0], a),
            _product(_MULTIPLIERS[1], c),
        )
        a, b, c, d = high_c ^ b ^ low_key, low_c, high_a ^ d ^ high_key, low_a
        low_key, high_key = low_key + _signed(_WEYL[0]), high_key + _signed(_WEYL[1])
    return torch.stack([a, b, c, d], dim=2).flatten(1)[:, :count]


_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_LOW = 0xFFFFFFFF


def _product(factor: int, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the high and the low 64 bits of a product of 64-bit words."""
    factor_low, factor_high = factor & _LOW, factor >> 32
    low, high = values & _LOW, (values >> 32) & _LOW
    # Sums and products wrap around, as those of unsigned integers would; shifts would not.
    middle = factor_low * high + ((factor_low * low >> 32) & _LOW)
    other = factor_high * low + (middle & _LOW)
    top = factor_high * high + ((middle >> 32) & _LOW) + ((other >> 32) & _LOW)
    return top, values * _signed(factor)


def _signed(word: int) -> int:
    """Return the int64 with the same lower 64 bits."""
    word &= 2**64 - 1
    return word - 2**64 if word >= 2**63 else word


def _guide(limits: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return, by the first bits, how many thresholds are at most the bits; -1 if others decide."""
    first = np.arange(2**_GUIDE_BITS, dtype=np.int64) << (_BITS - _GUIDE_BITS)
    last = first + (2 ** (_BITS - _GUIDE_BITS) - 1)
    at_first = np.searchsorted(limits, first, side="right")
    at_last = np.searchsorted(limits, last, side="right")
    return np.where(at_first == at_last, at_first, -1).astype(np.int32)


def as_pixels(images: Tensor) -> Tensor:
    """Return images uint8, or float32 in [0,1] already, as float32 in [0,1]."""
    return images.float() / 255 if images.dtype == torch.uint8 else images
