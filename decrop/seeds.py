"""Independent random streams, each named by what it is for."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_BITS = 63


def derive_seed(seed: int, *names: str | int) -> int:
    """Derive the seed of a named stream, in [0, 2**63), from a base seed.

    Streams with different names are statistically independent; the same names give the same stream
    on every machine and in every process.
    """
    return int.from_bytes(_digest(seed, names)[:8], "big") >> (64 - _BITS)


def derive_key(seed: int, *names: str | int) -> int:
    """Derive the 128-bit key of a named stream, as `derive_seed` derives its seed."""
    return int.from_bytes(_digest(seed, names)[:16], "big")


def torch_generator(
    seed: int, *names: str | int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a generator on `device` for the stream named `names` (see `derive_seed`)."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *names))


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return a NumPy generator for the stream named `names` (see `derive_seed`)."""
    return np.random.default_rng(derive_seed(seed, *names))


@contextmanager
def seeded_globals(seed: int, *names: str | int) -> Iterator[None]:
    """Seed the global generators of PyTorch (CPU) and NumPy inside a block, and restore them after.

    For libraries that draw from global state only: weight initialisation and attacks.
    """
    value = derive_seed(seed, *names)
    numpy_state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(value)
        np.random.seed(value % 2**32)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)


def _digest(seed: int, names: tuple[str | int, ...]) -> bytes:
    text = "\x1f".join([str(seed), *(f"{type(name).__name__}:{name}" for name in names)])
    return hashlib.sha256(text.encode()).digest()
