"""Class counts with helpers: whoever draws, whoever dies, the counts are those of one process."""

import dataclasses
import itertools
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
import torch
from ray.exceptions import WorkerCrashedError
from torch import Tensor, nn
from torch.nn import functional as F

from decrop.certification import certificate_table, local_sampler
from decrop.data.limited import LabelledImages
from decrop.errors import InputError
from decrop.evaluation.table import CertificateTable
from decrop.seeds import seeded_globals
from decrop.smoothing.collect import CertificationProgress
from decrop.smoothing.execution import Precision
from decrop.smoothing.sampling import (
    ESTIMATION,
    SELECTION,
    CountRequest,
    LocalSampler,
    SamplingTask,
)
from tests.decrop.digits_trial import certificates, short_trial
from tests.mlflow_server.processes import eventually, is_alive
from tune.cluster import Claim, ClusterSize
from tune.drawn import SamplesDrawn
from tune.shards import Answer, Counts, ShardedSampler, _draw

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
CLASSES = 7
CHUNK = 13
HELPERS = 3
ONE_CORE = Claim(cpu=1, gpu=0)

# Equally many draws of each image, or as few as do.
PROCEDURES = {
    "fixed": ("certification.procedure=fixed", "certification.estimation_samples=400"),
    "adaptive": ("certification.procedure=adaptive", "certification.max_samples=1210"),
}


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


class Raises(LeavesMarks):
    def elsewhere(self) -> None:
        super().elsewhere()
        raise RuntimeError("a helper fails")


class Dies(LeavesMarks):
    def elsewhere(self) -> None:
        super().elsewhere()
        os.kill(os.getpid(), signal.SIGKILL)


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


class Watched(ShardedSampler):
    """Counts the leases that helpers have lost."""

    leases_lost = 0

    def _collect(self, *given: Any) -> list[tuple[int, int]]:
        lost = super()._collect(*given)
        self.leases_lost += len(lost)
        return lost


class KnownCounts:
    """Takes the own process's place: answers from a table, and remembers what it was asked."""

    def __init__(
        self,
        seconds_a_request: float,
        while_drawing: Callable[[list[CountRequest]], None] = lambda requests: None,
    ) -> None:
        self.asked: list[CountRequest] = []
        self._seconds = seconds_a_request
        self._while_drawing = while_drawing

    def class_counts(self, requests: Sequence[CountRequest]) -> Counts:
        self.asked.extend(requests)
        time.sleep(self._seconds * len(requests))
        self._while_drawing(list(requests))
        return known_counts(requests)


def known_counts(requests: Sequence[CountRequest]) -> Counts:
    return np.array([[r.image, r.stream, r.chunk, r.draws] for r in requests], dtype=np.int64)


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
    return LocalSampler(dataclasses.replace(task, network=LastBits()), CPU).class_counts(asked)


def sharded(
    task: SamplingTask,
    helpers: int = HELPERS,
    claim: Claim = ONE_CORE,
    drawn: SamplesDrawn | None = None,
) -> Watched:
    return Watched(task, CPU, helper=claim, max_helpers=helpers, drawn=drawn)


def is_idle(size: ClusterSize, seconds: float) -> bool:
    """Whether nothing claims a CPU any more within some seconds."""
    return eventually(lambda: ray.available_resources().get("CPU", 0.0) == size.cpu, seconds)


def marks_in(folder: Path) -> set[str]:
    return {mark.name for mark in folder.iterdir()}


def processes_in(folder: Path) -> set[int]:
    """Return the helpers that have left marks."""
    return {int(name.partition("-")[0]) for name in marks_in(folder)}


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
    return certificate_table(
        config,
        network,
        images_of_all_shades(),
        split="test",
        class_count=CLASSES,
        estimation_samples=400 if procedure == "fixed" else settings.max_samples - 10,
        make_sampler=sampler_of or local_sampler(config),
        on_certified=on_certified,
    )


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_certificates_are_those_of_one_process(
    warm_ray: ClusterSize, tmp_path: Path, procedure: str
) -> None:
    network = LeavesMarks(tmp_path, seconds_here=0.02)
    alone = certified(procedure, LastBits())
    # There is something to be seen: radii of many sizes, abstentions and, if they differ, draws.
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
    drawn_before: list[int] = []

    def kill_one() -> None:
        assert eventually(lambda: bool(samplers) and samplers[0].leases_by_helpers > 2, 60)
        before = marks_in(tmp_path)
        # It has just begun a batch.
        assert eventually(lambda: marks_in(tmp_path) > before, 10)
        (latest, *_) = marks_in(tmp_path) - before
        drawn_before.append(progress[-1].draws)
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
    assert drawn_before[0] < progress[-1].draws
    assert samplers[0].leases_lost == 1
    assert certificates(shared) == certificates(certified(procedure, LastBits()))


def test_helpers_take_their_share(warm_ray: ClusterSize, tmp_path: Path) -> None:
    task = sampling_task(LeavesMarks(tmp_path, seconds_here=1.0))
    asked = requests(2)
    drawn = SamplesDrawn()
    sampler = sharded(task, drawn=drawn)
    started = time.monotonic()
    counts = sampler.class_counts(asked)
    assert time.monotonic() - started < len(asked) / task.chunks_per_batch
    assert sampler.leases_by_helpers > 0
    assert len(marks_in(tmp_path)) >= sampler.leases_by_helpers
    ((by_own, by_helpers),) = [by_role.values() for by_role in drawn.by_host.values()]
    assert by_own > 0 and by_helpers > 0
    assert by_own + by_helpers == sum(request.draws for request in asked)
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
    answer = _draw.options(max_retries=0).remote("slow", [task], "cpu", 1, requests(1))
    assert eventually(lambda: "begun" in marks_in(tmp_path), 30)
    ray.cancel(answer)
    assert eventually(lambda: bool({"interrupted", "unpacked"} & marks_in(tmp_path)), 30)
    assert "interrupted" not in marks_in(tmp_path)


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
    assert is_idle(warm_ray, 30)


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


def scripted(
    monkeypatch: pytest.MonkeyPatch, own: KnownCounts, script: ScriptedHelpers, helpers: int
) -> ShardedSampler:
    """Return a sampler without Ray and without a network."""
    monkeypatch.setattr("tune.shards.LocalSampler", lambda task, device: own)
    monkeypatch.setattr("tune.shards._draw", script)
    monkeypatch.setattr(ray, "put", lambda task: task)
    monkeypatch.setattr(ray, "cancel", script.cancel)
    return ShardedSampler(sampling_task(LastBits()), CPU, helper=ONE_CORE, max_helpers=helpers)


@pytest.mark.parametrize("fate", ["answered", "lost", "held"])
def test_an_overdue_lease_is_drawn_here_and_counted_once(
    monkeypatch: pytest.MonkeyPatch, fate: Literal["answered", "lost", "held"]
) -> None:
    """Whatever becomes of it while the own process draws it."""
    leases: list[ScriptedAnswer] = []

    def begin(lease: ScriptedAnswer) -> None:
        leases.append(lease)
        if lease is not leases[0]:
            lease.come()

    def while_drawing(drawn: list[CountRequest]) -> None:
        if leases and drawn == leases[0].requests and fate != "held":
            {"answered": leases[0].come, "lost": leases[0].be_lost}[fate]()
            # Until the other thread has noticed.
            time.sleep(0.2)

    own, script = KnownCounts(0.001, while_drawing), ScriptedHelpers(begin)
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
    # Nobody draws what somebody else has answered, apart from the overdue lease.
    by_helpers = [request for lease in others for request in lease.requests]
    assert len(own.asked) + len(by_helpers) == len(asked)
    assert {*own.asked, *by_helpers} == set(asked)
    assert sampler.leases_by_helpers == len(others) + (fate == "answered")
    assert script.cancelled == ([overdue] if fate == "held" else [])


def test_a_lease_that_is_lost_after_it_was_drawn_here_is_not_drawn_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leases: list[ScriptedAnswer] = []

    def begin(lease: ScriptedAnswer) -> None:
        leases.append(lease)
        if lease not in leases[:2]:
            lease.come()

    def while_drawing(drawn: list[CountRequest]) -> None:
        held = [lease for lease in leases[:2] if lease.requests != drawn]
        if len(held) == 1 and held[0].requests[0] in own.asked:
            held[0].be_lost()
            # Until the other thread has noticed.
            time.sleep(0.2)

    own = KnownCounts(0.001, while_drawing)
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
