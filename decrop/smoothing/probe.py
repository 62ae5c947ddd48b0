"""The size of batches that is fastest on a device."""

import dataclasses
import time
from collections.abc import Callable

import torch

from decrop.errors import InputError
from decrop.smoothing.sampling import CountRequest, LocalSampler, SamplingTask, full_batches

_LARGEST_ON_CPU = 64
_LARGEST_ON_CUDA = 1024
# Larger batches need more memory, so they must be worth it.
_SHARE_OF_BEST = 0.95
# Of `seconds`, for which a size is timed at least.
_SHARE_OF_TIME = 0.1
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


def probe_chunks_per_batch(
    task: SamplingTask, device: torch.device, *, seconds: float = 1.0
) -> int:
    """Return the number of chunks in a batch with which `LocalSampler` is fastest on `device`.

    The last bits of logits, and so the counts, may depend on this number, and another probe may
    give another one: whoever wants the same counts again must keep it.

    Args:
        task: to be sampled; its own `chunks_per_batch` does not matter.
        device: on which to sample.
        seconds: sizes of which a batch would take longer are not tried, > 0; the probe takes about
            four times as long at most, or two batches of one chunk if that is longer.
    """
    on_cuda = device.type == "cuda"
    try:
        size = fastest_batch(
            lambda chunks: _rate(task, device, chunks, seconds),
            largest=_LARGEST_ON_CUDA if on_cuda else _LARGEST_ON_CPU,
            seconds=seconds,
        )
    finally:
        if on_cuda:
            torch.cuda.empty_cache()
    if size is None:
        raise InputError(
            f"a batch of one chunk does not fit into the memory of {device}; "
            f"lower chunk_size, which is {task.chunk_size}."
        )
    return size


def fastest_batch(
    rate: Callable[[int], float], *, largest: int, seconds: float = float("inf")
) -> int | None:
    """Return the smallest of the sizes 1, 2, 4, ... whose rate is within 5 % of the best.

    Stops at the first size that is no faster than those before or does not fit into memory.

    Args:
        rate: measures the chunks a second in batches of a size, or runs out of memory.
        largest: size to try, >= 1.
        seconds: sizes whose batches are expected to take longer are not tried, apart from 1.

    Returns:
        The size, or None where not even 1 fits into memory.
    """
    rates: dict[int, float] = {}
    size = 1
    while size <= largest:
        best = max(rates.values(), default=0.0)
        measured = _unless_out_of_memory(rate, size)
        if measured is None:
            break
        rates[size] = measured
        size *= 2
        if measured <= best or size / measured > seconds:
            break
    enough = _SHARE_OF_BEST * max(rates.values(), default=0.0)
    return next((size for size, measured in rates.items() if measured >= enough), None)


def _unless_out_of_memory(rate: Callable[[int], float], size: int) -> float | None:
    try:
        return rate(size)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return None
        if any(words in str(error).lower() for words in _OUT_OF_MEMORY):
            return None
        raise


def _rate(task: SamplingTask, device: torch.device, chunks: int, seconds: float) -> float:
    """Return the chunks a second that one worker counts: a thread on the CPU, else the device."""
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    task = dataclasses.replace(task, chunks_per_batch=chunks)
    requests = full_batches(task, workers)
    sampler = LocalSampler(task, device)
    _timed(sampler, requests, device)  # kernels are compiled and memory allocated in the first run
    times = [_timed(sampler, requests, device)]
    while sum(times) < _SHARE_OF_TIME * seconds:
        times.append(_timed(sampler, requests, device))
    return chunks / min(times)


def _timed(sampler: LocalSampler, requests: list[CountRequest], device: torch.device) -> float:
    _synchronise(device)
    started = time.perf_counter()
    sampler.class_counts(requests)
    _synchronise(device)
    return time.perf_counter() - started


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
