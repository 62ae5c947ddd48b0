"""Class counts with helpers: whoever draws, whoever dies, the counts are those of one process."""

import dataclasses
import itertools
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decrop.errors import InputError
from decrop.smoothing.execution import Precision
from decrop.smoothing.sampling import (
    ESTIMATION,
    SELECTION,
    CountRequest,
    LocalSampler,
    SamplingTask,
)
from tests.mlflow_server.processes import eventually
from tune.cluster import Claim, ClusterSize
from tune.shards import Counts, ShardedSampler

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
CLASSES = 7
CHUNK = 13
HELPERS = 3
ONE_CORE = Claim(cpu=1, gpu=0)


class LastBits(nn.Module):
    """Its class is a function of the last bits of its features, so that any difference shows."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 9, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(9 * 64, 37)
        )

    def forward(self, images: Tensor) -> Tensor:
        bits = self.features(images).float().view(torch.int32)
        return F.one_hot(bits.long().sum(dim=1) % CLASSES, CLASSES).float()


class Elsewhere(LastBits):
    """Does something else in processes other than the one that made it."""

    def __init__(self, *, seconds_here: float = 0.0) -> None:
        super().__init__()
        self.home = os.getpid()
        self.seconds_here = seconds_here

    def elsewhere(self) -> None:
        """What happens in a helper before it counts."""

    def forward(self, images: Tensor) -> Tensor:
        if os.getpid() == self.home:
            time.sleep(self.seconds_here)
        else:
            self.elsewhere()
        return super().forward(images)


class LeavesMarks(Elsewhere):
    """Leaves a file for each batch that a helper begins."""

    def __init__(self, marks: Path, *, seconds_here: float) -> None:
        super().__init__(seconds_here=seconds_here)
        self.marks = marks

    def elsewhere(self) -> None:
        (self.marks / f"{os.getpid()}-{time.monotonic_ns()}").touch()


class Raises(LeavesMarks):
    def elsewhere(self) -> None:
        super().elsewhere()
        raise RuntimeError("a helper fails")


class Dies(LeavesMarks):
    def elsewhere(self) -> None:
        super().elsewhere()
        os.kill(os.getpid(), signal.SIGKILL)


class Dawdles(LeavesMarks):
    def elsewhere(self) -> None:
        super().elsewhere()
        time.sleep(4.0)


def sampling_task(network: LastBits, precision: Precision = "fp32") -> SamplingTask:
    generator = torch.Generator().manual_seed(0)
    return SamplingTask(
        network=network,
        images=torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8, generator=generator),
        image_ids=torch.tensor([3, 40, 41, 77, 100, 203]),
        class_count=CLASSES,
        sigma=0.25,
        seed=0,
        chunk_size=CHUNK,
        chunks_per_batch=2,
        precision=precision,
    )


def requests(chunks: int) -> list[CountRequest]:
    return [
        CountRequest(image, stream, chunk, CHUNK if chunk else 5)
        for image, stream in itertools.product(range(6), (SELECTION, ESTIMATION))
        for chunk in range(chunks)
    ]


def counts_of_one_process(task: SamplingTask, asked: list[CountRequest]) -> Counts:
    network = LastBits()
    network.load_state_dict(task.network.state_dict())
    return LocalSampler(dataclasses.replace(task, network=network), CPU).class_counts(asked)


def sharded(task: SamplingTask, helpers: int = HELPERS, claim: Claim = ONE_CORE) -> ShardedSampler:
    return ShardedSampler(task, CPU, helper=claim, max_helpers=helpers)


def is_idle(size: ClusterSize, seconds: float) -> bool:
    """Whether nothing claims a CPU any more within some seconds."""
    return eventually(lambda: ray.available_resources().get("CPU", 0.0) == size.cpu, seconds)


def marks_in(folder: Path) -> set[str]:
    return {mark.name for mark in folder.iterdir()}


@pytest.fixture(scope="module")
def warm_ray(local_ray: ClusterSize) -> ClusterSize:
    """Ray with idle processes that have imported what helpers need."""
    sampler = sharded(sampling_task(Elsewhere(seconds_here=0.5)))
    assert eventually(
        lambda: len(sampler.class_counts(requests(1))) > 0 and sampler.leases_by_helpers > 1, 90
    )
    assert is_idle(local_ray, 30)
    return local_ray


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_counts_are_those_of_one_process(warm_ray: ClusterSize, precision: Precision) -> None:
    task = sampling_task(Elsewhere(seconds_here=0.02), precision)
    asked = requests(2)
    expected = counts_of_one_process(task, asked)
    assert expected.sum() == sum(request.draws for request in asked)
    order = random.Random(0).sample(range(len(asked)), len(asked))
    for helpers in (0, 1, HELPERS):
        sampler = sharded(task, helpers)
        # The second call has longer leases than the first.
        for _ in range(2):
            counts = sampler.class_counts(asked)
            assert counts.dtype == np.int64
            np.testing.assert_array_equal(counts, expected)
        shuffled = sampler.class_counts([asked[position] for position in order])
        np.testing.assert_array_equal(shuffled, expected[order])


def test_helpers_take_their_share(warm_ray: ClusterSize, tmp_path: Path) -> None:
    task = sampling_task(LeavesMarks(tmp_path, seconds_here=1.0))
    asked = requests(2)
    sampler = sharded(task)
    started = time.monotonic()
    counts = sampler.class_counts(asked)
    assert time.monotonic() - started < len(asked) / task.chunks_per_batch
    assert sampler.leases_by_helpers > 0
    assert len(marks_in(tmp_path)) >= sampler.leases_by_helpers
    np.testing.assert_array_equal(counts, counts_of_one_process(task, asked))


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
    assert is_idle(warm_ray, 30)


def test_helpers_that_finish_no_lease_are_not_waited_for(
    warm_ray: ClusterSize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.shards._LEASE_SECONDS", 1.0)
    task = sampling_task(Dawdles(tmp_path, seconds_here=0.1))
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
    # A lease of some ten batches would take a helper most of a minute; it ends after its batch.
    assert is_idle(warm_ray, 20)
    assert sampler.leases_by_helpers == 0


@pytest.mark.parametrize("network", [Raises, Dies])
def test_leases_of_failing_helpers_are_drawn_again(
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
        assert is_idle(warm_ray, 30)
        return bool(before) and marks_in(tmp_path) == before

    assert eventually(failed_and_given_up, 120)
    assert sampler.leases_by_helpers == 0


def test_a_mistake_in_a_request_is_reported_and_helpers_are_let_go(warm_ray: ClusterSize) -> None:
    sampler = sharded(sampling_task(Elsewhere()))
    wrong = [dataclasses.replace(request, draws=CHUNK + 1) for request in requests(2)]
    with pytest.raises(InputError, match="chunk_size"):
        sampler.class_counts(wrong)
    assert is_idle(warm_ray, 30)
    assert sampler.class_counts([]).shape == (0, CLASSES + 1)
