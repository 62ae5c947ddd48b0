"""What other processes do with a shared cache; apart from the tests, for they import little."""

import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch

from decrop import cache
from decrop.cache import ContentCache, Tensors

KIND = "square"
DETERMINED_BY = {"number": 7}
VALUE = torch.tensor([49.0])


def get(folder: Path, compute_seconds: float, started: Path | None = None) -> torch.Tensor:
    """Take the entry from the cache; computing it takes a while and leaves a sign at its start."""

    def compute() -> Tensors:
        if started is not None:
            started.touch()
        time.sleep(compute_seconds)
        return {"value": VALUE}

    return ContentCache(folder).get(KIND, DETERMINED_BY, compute)["value"]


def get_at_once(barrier: Barrier, folder: Path) -> None:
    """Wait until all processes are there, then take the entry."""
    barrier.wait(60)
    assert torch.equal(get(folder, compute_seconds=0.5), VALUE)


def hold(folder: Path, started: Path, compute_seconds: float, lease_seconds: float) -> None:
    """Begin to compute the entry under a lease of another length."""
    cache._LEASE_SECONDS = lease_seconds
    assert torch.equal(get(folder, compute_seconds, started), VALUE)
