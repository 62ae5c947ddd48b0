"""Noise on a grid from its definition, one pixel at a time."""

import hashlib

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm


def reference_steps(
    seed: int, name: tuple[int, int, int], shape: tuple[int, ...], *, sigma: float, scale: int = 255
) -> NDArray[np.int64]:
    """Return the steps of a chunk's noise: the inverse distribution function of its random bits."""
    text = "\x1f".join([str(seed), "str:grid noise", *(f"int:{part}" for part in name)])
    key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")
    bits = np.random.Philox(key=key).random_raw(int(np.prod(shape))) >> np.uint64(1)
    uniform = (bits.astype(np.float64) + 0.5) / 2.0**63
    steps = np.ceil(norm.ppf(uniform) * sigma * scale - 0.5)
    return steps.astype(np.int64).reshape(shape)
