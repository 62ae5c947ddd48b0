"""What becomes of leases whose helper is slow, fails, dies or comes back late."""

import dataclasses
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import ray
from ray.exceptions import WorkerCrashedError

from decrop.errors import InputError
from decrop.smoothing.sampling import (
    CountRequest,
)
from tests.mlflow_server.processes import eventually
from tests.tune.sharding import (
    CHUNK,
    CLASSES,
    CPU,
    ONE_CORE,
    Elsewhere,
    LastBits,
    LeavesMarks,
    Watched,
    counts_of_one_process,
    is_idle,
    marks_in,
    requests,
    sampling_task,
    sharded,
    warmed_up,
)
from tune.cluster import Claim, ClusterSize
from tune.shards import Answer, Counts

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def warm_ray(local_ray: ClusterSize) -> ClusterSize:
    return warmed_up(local_ray)


class Raises(LeavesMarks):
    def elsewhere(self) -> None:
        super().elsewhere()
        raise RuntimeError("a helper fails")


class Dies(LeavesMarks):
    def elsewhere(self) -> None:
        super().elsewhere()
        os.kill(os.getpid(), signal.SIGKILL)


class KnownCounts:
    """Takes the own process's place: answers from a table, and remembers what it was asked."""

    def __init__(
        self,
        seconds_a_request: float,
        while_sampling: Callable[[list[CountRequest]], None] = lambda requests: None,
    ) -> None:
        self.asked: list[CountRequest] = []
        self._seconds = seconds_a_request
        self._while_sampling = while_sampling

    def class_counts(self, requests: Sequence[CountRequest]) -> Counts:
        self.asked.extend(requests)
        time.sleep(self._seconds * len(requests))
        self._while_sampling(list(requests))
        return known_counts(requests)


def known_counts(requests: Sequence[CountRequest]) -> Counts:
    return np.array([[r.image, r.stream, r.chunk, r.samples] for r in requests], dtype=np.int64)


class ScriptedHelpers:
    """Takes the place of Ray's tasks; what becomes of a lease is up to the test.

    Attributes:
        cancelled: answers that are not wanted any more.
    """

    def __init__(self, begin: Callable[["ScriptedAnswer"], None]) -> None:
        self.cancelled: list[ScriptedAnswer] = []
        self._begin = begin

    def options(self, **_: Any) -> "ScriptedHelpers":
        return self

    def remote(
        self, key: str, task: list[Any], device: str, threads: int, requests: list[CountRequest]
    ) -> "ScriptedAnswer":
        answer = ScriptedAnswer(requests)
        self._begin(answer)
        return answer

    def cancel(self, answer: "ScriptedAnswer") -> None:
        self.cancelled.append(answer)


class ScriptedAnswer:
    def __init__(self, requests: list[CountRequest]) -> None:
        self.requests = requests
        self._future: Future[Answer] = Future()

    def future(self) -> Future[Counts]:
        return self._future

    def come(self) -> None:
        self._future.set_result(("another host", known_counts(self.requests)))

    def be_lost(self) -> None:
        self._future.set_exception(WorkerCrashedError())

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, what)
        timer.daemon = True
        timer.start()


def test_nothing_is_computed_while_a_helper_is_waited_for(
    warm_ray: ClusterSize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.shards._OVERDUE", 100.0)
    task = sampling_task(LeavesMarks(tmp_path, seconds_here=0.3, seconds_elsewhere=1.0))
    sampler = sharded(task, 1)
    # Teaches the sampler how long a batch takes; two batches are too few to be shared.
    few = [request for request in requests(1) if request.image == 0]
    sampler.class_counts(few)
    asked = few * 2
    expected = counts_of_one_process(task, asked)
    started, computing = time.monotonic(), time.process_time()
    counts = sampler.class_counts(asked)
    seconds, computing = time.monotonic() - started, time.process_time() - computing
    np.testing.assert_array_equal(counts, expected)
    assert sampler.leases_by_helpers == 1
    assert seconds > 2
    assert computing < 0.15 * seconds


def test_without_room_for_helpers_the_own_process_counts_at_once(
    warm_ray: ClusterSize, tmp_path: Path
) -> None:
    task = sampling_task(LeavesMarks(tmp_path, seconds_here=0.01))
    asked = requests(2)
    expected = counts_of_one_process(task, asked)
    release = tmp_path / "release"

    @ray.remote
    def hold() -> None:
        while not release.exists():
            time.sleep(0.05)

    held = [hold.remote() for _ in range(int(warm_ray.cpu))]
    full = eventually(lambda: ray.available_resources().get("CPU", 0.0) == 0.0, 60)
    started = time.monotonic()
    # On a cluster that is full, and on one that will never be large enough.
    samplers = [sharded(task), sharded(task, claim=Claim(cpu=1000, gpu=0))]
    counts = [sampler.class_counts(asked) for sampler in samplers]
    seconds = time.monotonic() - started
    marks = marks_in(tmp_path)
    release.touch()
    ray.get(held)
    assert full
    assert seconds < 10
    assert [sampler.leases_by_helpers for sampler in samplers] == [0, 0]
    assert not marks
    for found in counts:
        np.testing.assert_array_equal(found, expected)
    assert is_idle(warm_ray)


def test_helpers_that_finish_no_lease_are_not_waited_for(
    warm_ray: ClusterSize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.shards._LEASE_SECONDS", 1.0)
    task = sampling_task(LeavesMarks(tmp_path, seconds_here=0.1, seconds_elsewhere=4.0))
    sampler = sharded(task)
    # Teaches the sampler how long a batch takes.
    sampler.class_counts(requests(1)[:2])
    asked = requests(4)
    expected = counts_of_one_process(task, asked)

    def begun_and_dropped() -> bool:
        started = time.monotonic()
        np.testing.assert_array_equal(sampler.class_counts(asked), expected)
        assert time.monotonic() - started < 20
        return bool(marks_in(tmp_path))

    assert eventually(begun_and_dropped, 60)
    assert is_idle(warm_ray)
    assert sampler.leases_by_helpers == 0


@pytest.mark.parametrize("network", [Raises, Dies])
def test_leases_of_failing_helpers_are_sampled_again(
    warm_ray: ClusterSize, tmp_path: Path, network: type[LeavesMarks]
) -> None:
    task = sampling_task(network(tmp_path, seconds_here=0.3))
    asked = requests(2)
    expected = counts_of_one_process(task, asked)
    sampler = sharded(task)

    def failed_and_given_up() -> bool:
        """Whether helpers have failed, and this call does without any."""
        before = marks_in(tmp_path)
        np.testing.assert_array_equal(sampler.class_counts(asked), expected)
        assert is_idle(warm_ray)
        return bool(before) and marks_in(tmp_path) == before

    assert eventually(failed_and_given_up, 120)
    assert sampler.leases_by_helpers == 0


def test_a_mistake_in_a_request_is_reported_and_helpers_are_let_go(warm_ray: ClusterSize) -> None:
    sampler = sharded(sampling_task(Elsewhere()))
    wrong = [dataclasses.replace(request, samples=CHUNK + 1) for request in requests(2)]
    with pytest.raises(InputError, match="chunk_size"):
        sampler.class_counts(wrong)
    assert is_idle(warm_ray)
    assert sampler.class_counts([]).shape == (0, CLASSES + 1)


def scripted(
    monkeypatch: pytest.MonkeyPatch, own: KnownCounts, script: ScriptedHelpers, helpers: int
) -> Watched:
    """Return a sampler without Ray and without a network."""
    monkeypatch.setattr("tune.shards.LocalSampler", lambda task, device: own)
    monkeypatch.setattr("tune.shards._sample_lease", script)
    monkeypatch.setattr(ray, "put", lambda task: task)
    monkeypatch.setattr(ray, "cancel", script.cancel)
    return Watched(sampling_task(LastBits()), CPU, helper=ONE_CORE, max_helpers=helpers)


@pytest.mark.parametrize("fate", ["answered", "lost", "held"])
def test_an_overdue_lease_is_sampled_here_and_counted_once(
    monkeypatch: pytest.MonkeyPatch, fate: Literal["answered", "lost", "held"]
) -> None:
    """Whatever becomes of it while the own process samples it."""
    leases: list[ScriptedAnswer] = []

    def begin(lease: ScriptedAnswer) -> None:
        leases.append(lease)
        if lease is not leases[0]:
            lease.come()

    def while_sampling(sampled: list[CountRequest]) -> None:
        if leases and sampled == leases[0].requests and fate != "held":
            {"answered": leases[0].come, "lost": leases[0].be_lost}[fate]()
            # Until the other thread has noticed.
            time.sleep(0.2)

    own, script = KnownCounts(0.001, while_sampling), ScriptedHelpers(begin)
    sampler = scripted(monkeypatch, own, script, helpers=1)
    asked = requests(5)
    sampler.class_counts(asked[:2])
    own.asked.clear()
    counts = sampler.class_counts(asked)
    np.testing.assert_array_equal(counts, known_counts(asked))
    overdue, *others = leases
    # More than the least that anybody takes, so that it could be handed out again in parts.
    assert len(overdue.requests) > 2
    assert [own.asked.count(request) for request in overdue.requests] == [1] * len(overdue.requests)
    # Nobody samples what somebody else has answered, apart from the overdue lease.
    by_helpers = [request for lease in others for request in lease.requests]
    assert len(own.asked) + len(by_helpers) == len(asked)
    assert {*own.asked, *by_helpers} == set(asked)
    assert sampler.leases_by_helpers == len(others) + (fate == "answered")
    assert script.cancelled == ([overdue] if fate == "held" else [])


def test_a_lease_that_is_lost_after_it_was_sampled_here_is_not_sampled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leases: list[ScriptedAnswer] = []

    def begin(lease: ScriptedAnswer) -> None:
        leases.append(lease)
        if lease not in leases[:2]:
            lease.come()

    def while_sampling(sampled: list[CountRequest]) -> None:
        held = [lease for lease in leases[:2] if lease.requests != sampled]
        if len(held) == 1 and held[0].requests[0] in own.asked:
            held[0].be_lost()
            # Until the other thread has noticed.
            time.sleep(0.2)

    own = KnownCounts(0.001, while_sampling)
    sampler = scripted(monkeypatch, own, ScriptedHelpers(begin), helpers=2)
    asked = requests(5)
    sampler.class_counts(asked[:2])
    own.asked.clear()
    np.testing.assert_array_equal(sampler.class_counts(asked), known_counts(asked))
    assert sum(lease.future().done() for lease in leases[:2]) == 1
    assert all(set(lease.requests) <= set(own.asked) for lease in leases[:2])
    assert len(own.asked) == len(set(own.asked))


def test_counts_are_right_whatever_becomes_of_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune.shards._LEASE_SECONDS", 0.005)
    monkeypatch.setattr("tune.shards._LOST_LEASES", 20)
    by_helpers = 0
    for seed in range(60):
        chance = random.Random(seed)

        def begin(lease: ScriptedAnswer, chance: random.Random = chance) -> None:
            fate = chance.choice([lease.come, lease.come, lease.be_lost, None])
            if fate is not None:
                lease.later(chance.choice([0.0, 0.002, 0.01]) * chance.random(), fate)

        own = KnownCounts(chance.choice([0.0, 0.0002, 0.001]))
        helpers = chance.randint(1, 4)
        sampler = scripted(monkeypatch, own, ScriptedHelpers(begin), helpers)
        for _ in range(3):
            asked = chance.sample(requests(5), chance.randint(1, 60))
            np.testing.assert_array_equal(sampler.class_counts(asked), known_counts(asked))
        by_helpers += sampler.leases_by_helpers
    assert by_helpers > 60
