"""Tasks whose counts show who sampled them, and samplers spread over helpers."""

import dataclasses
import itertools
import os
import time
from pathlib import Path
from typing import Any

import ray
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decrop.seeds import seeded_globals
from decrop.smoothing.execution import Precision
from decrop.smoothing.sampling import (
    ESTIMATION,
    SELECTION,
    CountRequest,
    LocalSampler,
    SamplingTask,
    places,
)
from tests.mlflow_server.processes import eventually
from tune.cluster import Claim, ClusterSize
from tune.sample_counts import SampleCounts
from tune.shards import Counts, ShardedSampler

CPU = torch.device("cpu")
CLASSES = 7
CHUNK = 13
CHUNKS_PER_BATCH = 2
HELPERS = 3
ONE_CORE = Claim(cpu=1, gpu=0)


class LastBits(nn.Module):
    """Its class is a function of the last bits of its features, so that any difference shows.

    The brighter an image, the more often it is class 0.
    """

    def __init__(self) -> None:
        super().__init__()
        with seeded_globals(0, "last bits"):
            self.features = nn.Sequential(
                nn.Conv2d(1, 9, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(9 * 64, 37)
            )

    def forward(self, images: Tensor) -> Tensor:
        bits = self.features(images).float().view(torch.int32).long().sum(dim=1)
        brightness = images.float().mean(dim=(1, 2, 3))
        classes = torch.where(bits % 1000 < 1000 * brightness, 0, bits // 1000 % CLASSES)
        return F.one_hot(classes, CLASSES).float()


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
    """Leaves a file for each batch that a helper begins, and then takes its time."""

    def __init__(self, marks: Path, *, seconds_here: float, seconds_elsewhere: float = 0.0) -> None:
        super().__init__(seconds_here=seconds_here)
        self.marks = marks
        self.seconds_elsewhere = seconds_elsewhere

    def elsewhere(self) -> None:
        (self.marks / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        time.sleep(self.seconds_elsewhere)


class Watched(ShardedSampler):
    """Counts the leases that helpers have answered and lost."""

    leases_by_helpers = leases_lost = 0

    def _collect(self, helpers: Any, answers: Any) -> list[tuple[int, int]]:
        held = len(helpers)
        lost = super()._collect(helpers, answers)
        self.leases_lost += len(lost)
        self.leases_by_helpers += held - len(helpers) - len(lost)
        return lost


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
        chunks_per_batch=CHUNKS_PER_BATCH,
        precision=precision,
    )


def requests(chunks: int) -> list[CountRequest]:
    place = places(12 * chunks, CHUNKS_PER_BATCH)
    return [
        CountRequest(image, stream, chunk, CHUNK if chunk else 5, *next(place))
        for image, stream in itertools.product(range(6), (SELECTION, ESTIMATION))
        for chunk in range(chunks)
    ]


def counts_of_one_process(task: SamplingTask, asked: list[CountRequest]) -> Counts:
    return LocalSampler(dataclasses.replace(task, network=LastBits()), CPU).class_counts(asked)


def sharded(
    task: SamplingTask,
    helpers: int = HELPERS,
    claim: Claim = ONE_CORE,
    sample_counts: SampleCounts | None = None,
) -> Watched:
    return Watched(task, CPU, helper=claim, max_helpers=helpers, sample_counts=sample_counts)


def is_idle(size: ClusterSize) -> bool:
    """Whether nothing claims a CPU any more soon: a helper finishes its lease, if it has begun."""
    return eventually(lambda: ray.available_resources().get("CPU", 0.0) == size.cpu, 90)


def marks_in(folder: Path) -> set[str]:
    return {mark.name for mark in folder.iterdir()}


def warmed_up(local_ray: ClusterSize) -> ClusterSize:
    """Return a Ray that has idle processes, which have imported what helpers need."""
    sampler = sharded(sampling_task(Elsewhere(seconds_here=0.5)))
    assert eventually(
        lambda: len(sampler.class_counts(requests(1))) > 0 and sampler.leases_by_helpers > 1, 90
    )
    assert is_idle(local_ray)
    return local_ray
