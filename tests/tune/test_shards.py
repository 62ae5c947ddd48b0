"""Class counts with helpers: whoever samples, whoever dies, the counts are those of one process."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from torch import nn

from decrop.data.limited import LabelledImages
from decrop.evaluation.table import CertificateTable
from decrop.smoothing.collect import CertificationProgress
from decrop.smoothing.execution import Precision, hardware_of
from decrop.smoothing.sampling import (
    SamplingTask,
)
from decrop.training.hooks import Hooks
from decrop.trial.certify import CertificationTask, certify
from tests.decrop.digits_trial import certificates, short_trial
from tests.mlflow_server.processes import eventually, is_alive
from tests.tune.sharding import (
    CLASSES,
    CPU,
    Elsewhere,
    LastBits,
    LeavesMarks,
    Watched,
    counts_of_one_process,
    marks_in,
    requests,
    sampling_task,
    sharded,
    warmed_up,
)
from tune.cluster import ClusterSize
from tune.sample_counts import SampleCounts
from tune.shards import _sample_lease

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def warm_ray(local_ray: ClusterSize) -> ClusterSize:
    return warmed_up(local_ray)


# Equally many samples of each image, or as few as do.
PROCEDURES = {
    "fixed": ("certification.procedure=fixed", "certification.estimation_samples=400"),
    "adaptive": ("certification.procedure=adaptive", "certification.max_samples=1210"),
}


class MarkedTask(SamplingTask):
    """Leaves a file each time it is packed to travel, and each time it is unpacked."""

    def __reduce__(self) -> tuple[Any, ...]:
        assert isinstance(self.network, LeavesMarks)
        marks = self.network.marks
        (marks / f"packed-{time.monotonic_ns()}").touch()
        return unpacked_task, (marks, vars(self))


def unpacked_task(marks: Path, fields: dict[str, Any]) -> SamplingTask:
    (marks / f"unpacked-{time.monotonic_ns()}").touch()
    return SamplingTask(**fields)


class SlowToUnpack(SamplingTask):
    """Takes as long to unpack as a network whose module is imported, and says what came of it."""

    def __reduce__(self) -> tuple[Any, ...]:
        assert isinstance(self.network, LeavesMarks)
        return slowly_unpacked_task, (self.network.marks, vars(self))


def slowly_unpacked_task(marks: Path, fields: dict[str, Any]) -> SamplingTask:
    (marks / "begun").touch()
    try:
        time.sleep(2.0)
    except KeyboardInterrupt:
        (marks / "interrupted").touch()
        raise
    (marks / "unpacked").touch()
    return SamplingTask(**fields)


def processes_in(folder: Path) -> set[int]:
    """Return the helpers that have left marks."""
    return {int(name.partition("-")[0]) for name in marks_in(folder)}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_counts_are_those_of_one_process(warm_ray: ClusterSize, precision: Precision) -> None:
    task = sampling_task(Elsewhere(seconds_here=0.02), precision)
    asked = requests(2)
    expected = counts_of_one_process(task, asked)
    assert expected.sum() == sum(request.samples for request in asked)
    order = random.Random(0).sample(range(len(asked)), len(asked))
    for helpers in (0, 1, 2):
        sampler = sharded(task, helpers)
        # The second call has longer leases than the first.
        for _ in range(2):
            counts = sampler.class_counts(asked)
            assert counts.dtype == np.int64
            np.testing.assert_array_equal(counts, expected)
        shuffled = sampler.class_counts([asked[position] for position in order])
        np.testing.assert_array_equal(shuffled, expected[order])


def images_of_all_shades() -> LabelledImages:
    """Return images of which some cannot be certified, and some have another class than 0."""
    generator = torch.Generator().manual_seed(1)
    shades = torch.linspace(90, 240, 16)[:, None, None, None]
    noise = torch.randint(-10, 11, (16, 1, 8, 8), generator=generator)
    labels = torch.zeros(16, dtype=torch.int64)
    labels[[5, 15]] = 1
    return LabelledImages((shades + noise).to(torch.uint8), labels, torch.arange(16) * 3 + 5)


def certified(
    procedure: str,
    network: nn.Module,
    sampler_of: Callable[[SamplingTask], Any] | None = None,
    on_certified: Callable[[CertificationProgress], None] | None = None,
) -> CertificateTable:
    config = short_trial(*PROCEDURES[procedure])
    settings = config.certification
    hooks = Hooks(make_sampler=sampler_of)
    if on_certified is not None:
        hooks = replace(hooks, on_certified=on_certified)
    return certify(
        config,
        CertificationTask(network, images_of_all_shades(), "test", CLASSES),
        estimation_samples=400 if procedure == "fixed" else settings.max_samples - 10,
        hooks=hooks,
    ).table


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_certificates_are_those_of_one_process(
    warm_ray: ClusterSize, tmp_path: Path, procedure: str
) -> None:
    network = LeavesMarks(tmp_path, seconds_here=0.02)
    alone = certified(procedure, LastBits())
    # There is something to be seen: radii of many sizes, abstentions and, if they differ, samples.
    assert len(set(alone.radius.tolist())) > 3 and (alone.predict == -1).any()
    assert alone.samples is not None
    assert (len(set(alone.samples.tolist())) > 3) == (procedure == "adaptive")
    for helpers in (0, 1, 2):

        def all_take_part(helpers: int = helpers) -> bool:
            for mark in tmp_path.iterdir():
                mark.unlink()
            shared = certified(procedure, network, lambda task: sharded(task, helpers))
            assert certificates(shared) == certificates(alone)
            return len(processes_in(tmp_path)) >= helpers

        assert eventually(all_take_part, 60)


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("procedure", PROCEDURES)
def test_certificates_outlive_a_helper_that_is_killed(
    warm_ray: ClusterSize, tmp_path: Path, procedure: str
) -> None:
    network = LeavesMarks(tmp_path, seconds_here=0.05, seconds_elsewhere=0.05)
    samplers: list[Watched] = []
    killed: list[int] = []
    progress: list[CertificationProgress] = []
    sampled_before: list[int] = []

    def kill_one() -> None:
        assert eventually(lambda: bool(samplers) and samplers[0].leases_by_helpers > 2, 60)
        before = marks_in(tmp_path)
        # It has just begun a batch.
        assert eventually(lambda: marks_in(tmp_path) > before, 10)
        (latest, *_) = marks_in(tmp_path) - before
        sampled_before.append(progress[-1].samples)
        killed.append(int(latest.partition("-")[0]))
        os.kill(killed[0], signal.SIGKILL)

    def sampler_of(task: SamplingTask) -> Watched:
        samplers.append(sharded(task, 2))
        return samplers[0]

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    shared = certified(procedure, network, sampler_of, progress.append)
    killer.join()
    assert killed and eventually(lambda: not is_alive(killed[0]), 10)
    assert sampled_before[0] < progress[-1].samples
    if procedure != "adaptive":  # whose rounds are so short that the own process overtakes a helper
        assert samplers[0].leases_lost == 1
    assert certificates(shared) == certificates(certified(procedure, LastBits()))


def test_helpers_take_their_share(warm_ray: ClusterSize, tmp_path: Path) -> None:
    task = sampling_task(LeavesMarks(tmp_path, seconds_here=1.0))
    asked = requests(2)
    sampled = SampleCounts()
    sampler = sharded(task, sample_counts=sampled)
    started = time.monotonic()
    counts = sampler.class_counts(asked)
    assert time.monotonic() - started < len(asked) / task.chunks_per_batch
    assert sampler.leases_by_helpers > 0
    assert len(marks_in(tmp_path)) >= sampler.leases_by_helpers
    ((by_own, by_helpers),) = [by_role.values() for by_role in sampled.by_host.values()]
    assert by_own > 0 and by_helpers > 0
    assert by_own + by_helpers == sum(request.samples for request in asked)
    np.testing.assert_array_equal(counts, counts_of_one_process(task, asked))


def test_the_task_travels_once(warm_ray: ClusterSize, tmp_path: Path) -> None:
    task = MarkedTask(**vars(sampling_task(LeavesMarks(tmp_path, seconds_here=0.1))))
    sampler = sharded(task, 1)
    assert eventually(
        lambda: len(sampler.class_counts(requests(2))) > 0 and sampler.leases_by_helpers > 9, 60
    )
    names = [name.partition("-")[0] for name in marks_in(tmp_path)]
    assert names.count("packed") == 1
    # Each process that has helped fetched it once, whatever the number of its leases.
    processes = set(names) - {"packed", "unpacked"}
    assert names.count("unpacked") == len(processes) < sampler.leases_by_helpers


def test_a_helper_that_is_let_go_is_not_interrupted(warm_ray: ClusterSize, tmp_path: Path) -> None:
    plain = sampling_task(LeavesMarks(tmp_path, seconds_here=0.0))
    task = ray.put(SlowToUnpack(**vars(plain)))
    answer = _sample_lease.options(max_retries=0).remote(
        "slow", [task], hardware_of(CPU), 1, requests(1)
    )
    assert eventually(lambda: "begun" in marks_in(tmp_path), 30)
    ray.cancel(answer)
    assert eventually(lambda: bool({"interrupted", "unpacked"} & marks_in(tmp_path)), 30)
    assert "interrupted" not in marks_in(tmp_path)


def test_other_hardware_does_not_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the same network rounds otherwise, so that a certificate would be of two functions."""
    alike = sampling_task(LastBits())
    monkeypatch.setattr(ray, "get", lambda task: task)
    sample: Any = _sample_lease._function
    with pytest.raises(RuntimeError, match=r"is of Another CPU, but this helper computes with CPU"):
        sample("key", [alike], "Another CPU", 1, requests(1))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    _, counts = sample("key", [alike], hardware_of(CPU), 1, requests(1))
    np.testing.assert_array_equal(counts, counts_of_one_process(alike, requests(1)))
