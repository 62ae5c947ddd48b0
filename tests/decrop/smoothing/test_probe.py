import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from decrop.errors import InputError
from decrop.networks.small_cnn import SmallCNN
from decrop.smoothing.probe import fastest_batch, probe_chunks_per_batch
from decrop.smoothing.sampling import ESTIMATION, CountRequest, LocalSampler, SamplingTask
from tests.cases import cases

CPU = torch.device("cpu")
CHUNK = 4


class Limited(nn.Module):
    """A network that has no memory for more than a number of images at once."""

    def __init__(self, images: int, error: Exception) -> None:
        super().__init__()
        self._images = images
        self._error = error

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self._images:
            raise self._error
        return images.flatten(1)[:, :2]


def task(network: nn.Module, class_count: int) -> SamplingTask:
    return SamplingTask(
        network=network,
        images=torch.zeros(1, 1, 8, 8, dtype=torch.uint8),
        image_ids=torch.tensor([5]),
        class_count=class_count,
        sigma=0.25,
        seed=0,
        chunk_size=CHUNK,
        chunks_per_batch=1,
        precision="fp32",
    )


class Rates:
    """Rates of sizes 1, 2, 4, ...; remembers the sizes asked for."""

    def __init__(self, *rates: float | Exception) -> None:
        self._rates = rates
        self.tried: list[int] = []

    def __call__(self, size: int) -> float:
        rate = self._rates[len(self.tried)]
        self.tried.append(size)
        if isinstance(rate, Exception):
            raise rate
        return rate


@cases(
    ("rates", "fastest", "tried"),
    [
        ((100.0, 90.0), 1, [1, 2]),
        ((100.0, 100.0), 1, [1, 2]),
        ((100.0, 200.0, 150.0), 2, [1, 2, 4]),
        ((100.0, 190.0, 199.0, 190.0), 2, [1, 2, 4, 8]),
        ((100.0, 189.0, 199.0, 190.0), 4, [1, 2, 4, 8]),
        # Growth by less than 5 % a step adds up.
        ((100.0, 104.0, 108.0, 112.0, 111.0), 4, [1, 2, 4, 8, 16]),
        ((1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0), 64, [1, 2, 4, 8, 16, 32, 64]),
    ],
)
def test_the_smallest_size_near_the_best_rate_is_fastest(
    rates: tuple[float, ...], fastest: int, tried: list[int]
) -> None:
    measured = Rates(*rates)
    assert fastest_batch(measured, largest=64) == fastest
    assert measured.tried == tried


@cases(("largest", "tried"), [(1, [1]), (3, [1, 2]), (4, [1, 2, 4]), (7, [1, 2, 4])])
def test_no_size_above_the_largest_is_tried(largest: int, tried: list[int]) -> None:
    measured = Rates(1.0, 2.0, 4.0, 8.0)
    assert fastest_batch(measured, largest=largest) == tried[-1]
    assert measured.tried == tried


@cases(("seconds", "tried"), [(0.01, [1]), (0.1, [1, 2]), (0.14, [1, 2, 4]), (0.2, [1, 2, 4, 8])])
def test_no_batch_that_takes_too_long_is_tried(seconds: float, tried: list[int]) -> None:
    # Batches of 2, 4 and 8 are expected to take 0.1, 0.133 and 0.2 s.
    measured = Rates(20.0, 30.0, 40.0, 50.0, 60.0)
    assert fastest_batch(measured, largest=64, seconds=seconds) == tried[-1]
    assert measured.tried == tried


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 6.25 GiB."),
    RuntimeError("CUDA error: Out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: not enough memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    MemoryError("std::bad_alloc"),
]


@cases("error", OUT_OF_MEMORY)
def test_the_search_ends_where_memory_does(error: Exception) -> None:
    measured = Rates(1.0, 2.0, 3.0, error)
    assert fastest_batch(measured, largest=64) == 4
    assert measured.tried == [1, 2, 4, 8]
    assert fastest_batch(Rates(error), largest=64) is None


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fastest_batch(
            Rates(1.0, RuntimeError("mat1 and mat2 shapes cannot be multiplied")), largest=8
        )


def test_a_real_probe_gives_a_size_that_samples() -> None:
    torch.manual_seed(0)
    sampling = task(SmallCNN(image_channels=1, class_count=10), 10)
    size = probe_chunks_per_batch(sampling, CPU, seconds=0.1)
    assert size in [1, 2, 4, 8, 16, 32, 64]
    assert sampling.chunks_per_batch == 1
    sampler = LocalSampler(dataclasses.replace(sampling, chunks_per_batch=size), CPU)
    requests = [CountRequest(0, ESTIMATION, chunk, CHUNK) for chunk in range(3 * size)]
    assert (sampler.class_counts(requests).sum(axis=1) == CHUNK).all()


@cases("error", OUT_OF_MEMORY)
def test_a_chunk_that_does_not_fit_is_refused(error: Exception) -> None:
    with pytest.raises(InputError, match=f"memory of cpu; lower chunk_size, which is {CHUNK}"):
        probe_chunks_per_batch(task(Limited(CHUNK - 1, error), 2), CPU, seconds=0.1)


def test_every_thread_has_a_full_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = set()
    counted: Callable[..., list[Tensor]] = LocalSampler._run

    def run(sampler: LocalSampler, batches: list[list[CountRequest | None]]) -> list[Tensor]:
        assert len(batches) == torch.get_num_threads()
        assert all(request is not None for batch in batches for request in batch)
        sizes.add(len(batches[0]))
        return counted(sampler, batches)

    monkeypatch.setattr(LocalSampler, "_run", run)
    probe_chunks_per_batch(task(SmallCNN(image_channels=1, class_count=10), 10), CPU, seconds=0.5)
    assert sizes >= {1, 2}
