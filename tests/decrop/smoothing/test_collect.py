from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from decrop.errors import InputError
from decrop.smoothing import collect
from decrop.smoothing.collect import CountCollector
from decrop.smoothing.sampling import CountRequest


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class TimedSampler:
    """Takes a second for a hundred samples, all of class 0."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.groups: list[list[CountRequest]] = []

    def class_counts(self, requests: Sequence[CountRequest]) -> NDArray[np.int64]:
        self.groups.append(list(requests))
        counts = np.zeros((len(requests), 3), dtype=np.int64)
        counts[:, 0] = [request.samples for request in requests]
        self.clock.now += float(counts.sum()) / 100
        return counts


@pytest.fixture
def sampler(monkeypatch: pytest.MonkeyPatch) -> TimedSampler:
    clock = Clock()
    monkeypatch.setattr(collect, "time", clock)
    return TimedSampler(clock)


def collector(sampler: TimedSampler, images: int = 3) -> CountCollector:
    return CountCollector(sampler, images=images, class_count=2, chunk_size=10)


def nothing() -> None:
    pass


def test_every_sample_is_asked_for_once(sampler: TimedSampler) -> None:
    counts = collector(sampler)
    counts.sample(0, [0, 2], 0, 25, nothing)
    counts.sample(1, [2], 0, 30, nothing)
    counts.sample(1, [2], 30, 42, nothing)
    asked = [request for group in sampler.groups for request in group]
    assert asked == [
        CountRequest(0, 0, 0, 10),
        CountRequest(0, 0, 1, 10),
        CountRequest(0, 0, 2, 5),
        CountRequest(2, 0, 0, 10),
        CountRequest(2, 0, 1, 10),
        CountRequest(2, 0, 2, 5),
        *[CountRequest(2, 1, chunk, 10) for chunk in range(4)],
        CountRequest(2, 1, 4, 2),
    ]
    assert counts.counts[:, :, 0].tolist() == [[25, 0, 25], [0, 0, 42]]
    assert counts.counts[:, :, 1:].sum() == 0
    assert counts.samples.tolist() == [25, 0, 67]


def test_time_is_shared_by_samples(sampler: TimedSampler) -> None:
    counts = collector(sampler)
    counts.sample(0, [0], 0, 100, nothing)
    counts.sample(0, [1, 2], 0, 50, nothing)
    assert counts.seconds == pytest.approx([1.0, 0.5, 0.5])


def test_groups_take_some_seconds_and_grow_slowly(sampler: TimedSampler) -> None:
    groups = 0

    def count() -> None:
        nonlocal groups
        groups += 1

    collector(sampler, images=1).sample(0, [0], 0, 20_000, count)
    sizes = [len(group) for group in sampler.groups]
    # A group of 80 chunks takes the eight seconds of a group.
    assert sizes[:3] == [64, 80, 80]
    assert groups == len(sizes)


def test_a_group_is_at_most_twice_the_one_before(sampler: TimedSampler) -> None:
    class Answered(TimedSampler):
        def class_counts(self, requests: Sequence[CountRequest]) -> NDArray[np.int64]:
            counts = super().class_counts(requests)
            self.clock.now -= float(counts.sum()) / 100
            return counts

    at_once = Answered(sampler.clock)
    collector(at_once, images=1).sample(0, [0], 0, 10_000, nothing)
    assert [len(group) for group in at_once.groups] == [64, 128, 256, 512, 40]


@pytest.mark.parametrize(("images", "chunk_size"), [(0, 10), (1, 0)])
def test_there_is_something_to_sample(images: int, chunk_size: int, sampler: TimedSampler) -> None:
    with pytest.raises(InputError, match="must be at least 1, but is 0"):
        CountCollector(sampler, images=images, class_count=2, chunk_size=chunk_size)
