"""Results are computed once among threads, processes and restarts, and outlive their makers."""

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from decrop import cache as cache_module
from decrop.cache import ContentCache, Tensors
from decrop.files import read_json
from tests.cases import slow_but
from tests.decrop.cache_processes import KIND, VALUE, get, get_at_once, hold

SPAWN = get_context("spawn")


def counted(calls: list[int], value: float = 1.0) -> Callable[[], Tensors]:
    def compute() -> Tensors:
        calls.append(1)
        return {"value": torch.tensor([value])}

    return compute


def test_entry_is_computed_once_and_survives_the_process(tmp_path: Path) -> None:
    calls: list[int] = []
    first = ContentCache(tmp_path).get("kind", {"a": 1, "b": [2]}, counted(calls))
    again = ContentCache(tmp_path).get("kind", {"b": [2], "a": 1}, counted(calls, 2.0))
    assert len(calls) == 1
    assert torch.equal(first["value"], again["value"])
    assert ContentCache(tmp_path).computations("kind") == 1


@pytest.mark.parametrize(
    ("kind", "determined_by"),
    [("kind", {"a": 2}), ("kind", {"a": 1, "b": 1}), ("kind", {}), ("other", {"a": 1})],
)
def test_other_content_is_another_entry(
    tmp_path: Path, kind: str, determined_by: dict[str, int]
) -> None:
    cache = ContentCache(tmp_path)
    cache.get("kind", {"a": 1}, counted([], 1.0))
    assert cache.get(kind, determined_by, counted([], 2.0))["value"].item() == 2.0
    assert cache.get("kind", {"a": 1}, counted([], 3.0))["value"].item() == 1.0
    assert cache.computations("kind") + cache.computations("other") == 2


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    tensors = {
        "transposed": torch.arange(6.0).reshape(2, 3).t(),
        "mask": torch.tensor([True, False]),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    cache = ContentCache(tmp_path)
    for _ in range(2):
        back = cache.get("kind", {}, lambda: tensors)
        assert back.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert back[name].dtype == tensor.dtype
            assert torch.equal(back[name], tensor)


@pytest.mark.parametrize("kept", [0, 7, -2])
def test_a_torn_entry_is_computed_anew(tmp_path: Path, kept: int) -> None:
    calls: list[int] = []
    cache = ContentCache(tmp_path)
    cache.get("kind", {}, counted(calls))
    [entry] = (tmp_path / "kind").glob("*.safetensors")
    whole = entry.read_bytes()
    entry.write_bytes(whole[:kept])
    for _ in range(2):
        assert cache.get("kind", {}, counted(calls))["value"].item() == 1.0
    assert len(calls) == 2 and entry.read_bytes() == whole


def test_marker_tells_what_was_computed(tmp_path: Path) -> None:
    ContentCache(tmp_path).get("kind", {"seed": 3}, counted([]))
    (marker,) = (tmp_path / "kind").glob("*.computed.json")
    assert read_json(marker) == {"seed": 3}


def test_failed_computation_leaves_no_entry(tmp_path: Path) -> None:
    def fail() -> Tensors:
        raise RuntimeError("no memory")

    cache = ContentCache(tmp_path)
    with pytest.raises(RuntimeError, match="no memory"):
        cache.get("kind", {}, fail)
    assert cache.computations("kind") == 0
    assert cache.get("kind", {}, counted([]))["value"].item() == 1.0


def test_threads_compute_an_entry_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        values = list(pool.map(lambda _: get(tmp_path, compute_seconds=0.2), range(4)))
    assert all(torch.equal(value, VALUE) for value in values)
    assert ContentCache(tmp_path).computations(KIND) == 1


@pytest.mark.slow
def test_processes_compute_an_entry_once(tmp_path: Path) -> None:
    barrier = SPAWN.Barrier(2)
    other = SPAWN.Process(target=get_at_once, args=(barrier, tmp_path))
    other.start()
    get_at_once(barrier, tmp_path)
    other.join(60)
    assert other.exitcode == 0
    assert ContentCache(tmp_path).computations(KIND) == 1


@pytest.mark.slow
@pytest.mark.parametrize("silenced_by", slow_but([signal.SIGKILL, signal.SIGSTOP], signal.SIGSTOP))
def test_silent_holder_is_superseded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silenced_by: signal.Signals
) -> None:
    # A stopped process looks like one on a host that died: it exists, but renews nothing.
    lease_seconds = 1.5
    monkeypatch.setattr(cache_module, "_LEASE_SECONDS", lease_seconds)
    folder, started = tmp_path / "cache", tmp_path / "started"
    holder = SPAWN.Process(target=hold, args=(folder, started, 5.0, lease_seconds))
    holder.start()
    assert holder.pid is not None
    try:
        deadline = time.monotonic() + 60
        while not started.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(holder.pid, silenced_by)
        begun = time.monotonic()
        assert torch.equal(get(folder, compute_seconds=0.0), VALUE)
        assert time.monotonic() - begun < 20
        assert ContentCache(folder).computations(KIND) == 1
        if silenced_by == signal.SIGSTOP:
            # Woken, it finishes what it began and does no harm.
            os.kill(holder.pid, signal.SIGCONT)
            holder.join(60)
            assert holder.exitcode == 0
            assert torch.equal(get(folder, compute_seconds=0.0), VALUE)
            assert ContentCache(folder).computations(KIND) == 2
    finally:
        holder.kill()
        holder.join()
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.slow
def test_holder_that_renews_its_lease_is_not_superseded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_LEASE_SECONDS", 1.0)
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(get, tmp_path, 2.5, tmp_path / "started")
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
        impatient = pool.submit(get, tmp_path, 0.0)
        assert torch.equal(slow.result(), VALUE)
        assert torch.equal(impatient.result(), VALUE)
    assert ContentCache(tmp_path).computations(KIND) == 1
