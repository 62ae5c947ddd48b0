"""Class counts sampled by a trial's own process and by helpers anywhere in the cluster.

The own process always samples, so certification never waits for room. Helpers are outside the
trial's placement group and take a short lease of requests each; they may start late, or never, or
die. Counts depend on the request alone, so the first answer is right and counts once.
"""

import signal
import time
import uuid
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import RayError
from ray.util import get_node_ip_address
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

# Before networks of torchvision's are unpickled.
import decrop._torchvision_operators  # noqa: F401
from decrop.smoothing.execution import hardware_of
from decrop.smoothing.sampling import CountRequest, LocalSampler, SamplingTask
from tune.cluster import Claim, bound_memory
from tune.sample_counts import Role, SampleCounts

# The length of a lease on this process's device; a helper holds its resources no longer at a time.
_LEASE_SECONDS = 2.0
# After so many times the seconds that it should take, a helper's lease is sampled here too.
_OVERDUE = 1.5
# A cluster in which helpers keep dying is left alone.
_LOST_LEASES = 3
# For so long a helper on a GPU keeps it from trials that wait; it has taken seconds to start.
_ON_GPU_SECONDS = 60.0

_CPU = torch.device("cpu")

Counts = NDArray[np.int64]
Lease = tuple[int, int]
# Of a helper: its host and the counts.
Answer = tuple[str, Counts]


class Helped(NamedTuple):
    """A lease that a helper holds, the reference to its answer, and when that is overdue."""

    reference: Any
    lease: Lease
    overdue: float


class ShardedSampler:
    """Answers requests for class counts together with helpers (`decrop.smoothing.Sampler`)."""

    def __init__(
        self,
        task: SamplingTask,
        device: torch.device,
        *,
        helper: Claim,
        max_helpers: int,
        sample_counts: SampleCounts | None = None,
    ) -> None:
        """Prepare the own sampler and send the task to the object store, once.

        Args:
            device: of the own process; helpers use the same kind, so without a share of a GPU they
                do not help on one.
        """
        self._batch = task.chunks_per_batch
        self._own = LocalSampler(task, device)
        # On a CPU each thread of the own sampler takes a batch.
        self._own_batches = torch.get_num_threads() if device.type == "cpu" else 1
        helps = device.type == "cpu" or helper.gpu > 0
        self._max_helpers = max_helpers if helps else 0
        self._helpers: _HelpersOnCpus | _HelpersOnGpus | None = None
        if self._max_helpers and device.type == "cpu":
            self._helpers = _HelpersOnCpus(ray.put(task), helper)
        elif self._max_helpers:
            self._helpers = _HelpersOnGpus(ray.put(task), helper, device, self._max_helpers)
        self._lost = 0
        self._seconds_a_request: float | None = None
        self._sample_counts = sample_counts if sample_counts is not None else SampleCounts()
        self._host = get_node_ip_address()

    def class_counts(self, requests: Sequence[CountRequest]) -> Counts:
        """Return int64 [len(requests), K+1], as `LocalSampler` would."""
        if not requests:
            return self._own.class_counts(requests)
        pending = deque([(0, len(requests))])
        answers: dict[Lease, Counts] = {}
        helpers: dict[Future[Answer], Helped] = {}
        own: tuple[Lease, Future[Counts]] | None = None
        try:
            # This thread hands out work while another samples, so that no helper waits for a lease.
            with ThreadPoolExecutor(1) as thread:
                while _requests_in(answers) < len(requests):
                    self._hand_out(requests, pending, helpers)
                    if own is None and (lease := self._next_own(pending, helpers, answers)):
                        own = lease, thread.submit(self._sample_own, requests, lease)
                    if own is None:
                        wait(helpers, _patience(helpers, answers), return_when=FIRST_COMPLETED)
                    else:
                        sampling: list[Future[Any]] = [*helpers, own[1]]
                        wait(sampling, return_when=FIRST_COMPLETED)
                    lost = self._collect(helpers, answers)
                    if own is not None and own[1].done():
                        self._take(answers, own[0], own[1].result(), self._host, "trial")
                        own = None
                    # What the own process is sampling already must not be answered in other parts.
                    sampled = {*answers, *([own[0]] if own else [])}
                    pending.extend(lease for lease in lost if lease not in sampled)
        finally:
            for helped in helpers.values():
                assert self._helpers is not None  # it has handed out leases
                self._helpers.drop(helped.reference)
        return np.concatenate([answers[lease] for lease in sorted(answers)])

    def _take(
        self, answers: dict[Lease, Counts], lease: Lease, counts: Counts, host: str, role: Role
    ) -> None:
        """Take an answer unless there is one already."""
        if lease not in answers:
            answers[lease] = counts
            self._sample_counts.add(host, role, int(counts.sum()))

    def _sample_own(self, requests: Sequence[CountRequest], lease: Lease) -> Counts:
        started = time.monotonic()
        counts = self._own.class_counts(requests[slice(*lease)])
        self._seconds_a_request = (time.monotonic() - started) / (lease[1] - lease[0])
        return counts

    def _lease_size(self, pending: deque[Lease], least_batches: int) -> int:
        """Return requests of the next lease: fewer as the end nears, so that all end together."""
        if self._seconds_a_request is None:
            return self._batch * least_batches
        longest = int(_LEASE_SECONDS / max(self._seconds_a_request, 1e-9))
        share = _requests_in(pending) // (2 * (self._max_helpers + 1))
        return self._batch * max(least_batches, min(longest, share) // self._batch)

    def _hand_out(
        self,
        requests: Sequence[CountRequest],
        pending: deque[Lease],
        helpers: dict[Future[Answer], Helped],
    ) -> None:
        while (
            self._helpers is not None
            # What the own process samples next stays with it.
            and _requests_in(pending) > self._own_batches * self._batch
            and len(helpers) < self._max_helpers
            and self._lost < _LOST_LEASES
            and self._helpers.take_more()
        ):
            size = self._lease_size(pending, 1)
            start, end = pending.pop()
            # Whole batches: requests that are sampled together fill them in order.
            cut = max(start, -(-(end - size) // self._batch) * self._batch)
            if cut > start:
                pending.append((start, cut))
            reference = self._helpers.begin(list(requests[cut:end]))
            # A helper may have one thread where the own process has several.
            seconds = (end - cut) * self._own_batches * (self._seconds_a_request or 0.0)
            overdue = time.monotonic() + _OVERDUE * seconds
            helpers[reference.future()] = Helped(reference, (cut, end), overdue)

    def _collect(
        self, helpers: dict[Future[Answer], Helped], answers: dict[Lease, Counts]
    ) -> list[Lease]:
        """Take the answers that helpers have given; return the leases that they lost."""
        lost = []
        for future in [future for future in helpers if future.done()]:
            reference, lease, _ = helpers.pop(future)
            try:
                host, counts = future.result()
            except RayError:
                assert self._helpers is not None  # it has handed out this lease
                self._helpers.lose(reference)
                self._lost += 1
                lost.append(lease)
            else:
                self._lost = 0
                self._take(answers, lease, counts, host, "helpers")
        return lost

    def _next_own(
        self,
        pending: deque[Lease],
        helpers: dict[Future[Answer], Helped],
        answers: dict[Lease, Counts],
    ) -> Lease | None:
        if pending:
            size = self._lease_size(pending, self._own_batches)
            start, end = pending.popleft()
            cut = min(end, start + size)
            if cut < end:
                pending.appendleft((cut, end))
            return start, cut
        # A helper may not even have started; what it holds is sampled here too.
        held = [
            helped.lease
            for helped in helpers.values()
            if helped.lease not in answers and helped.overdue <= time.monotonic()
        ]
        return held[-1] if held else None


def _patience(helpers: dict[Future[Answer], Helped], answers: dict[Lease, Counts]) -> float:
    """Return the seconds until the next lease is overdue."""
    overdue = [helped.overdue for helped in helpers.values() if helped.lease not in answers]
    return max(0.0, min(overdue) - time.monotonic())


def _requests_in(leases: Iterable[Lease]) -> int:
    return sum(end - start for start, end in leases)


def _outside(helper: Claim, *, gpu: float) -> dict[str, Any]:
    """Return Ray's options of what is outside the trial's placement group."""
    return {
        "num_cpus": helper.cpu,
        "num_gpus": gpu,
        "scheduling_strategy": PlacementGroupSchedulingStrategy(
            placement_group=None  # type: ignore[arg-type]  # outside the trial's group
        ),
    }


def _gpu_model() -> dict[str, float]:
    """Return the little that Ray has on each machine with GPUs of the same model as this one's."""
    here = ray.get_runtime_context().get_node_id()
    resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    return {name: 0.001 for name in resources if name.startswith("accelerator_type:")}


def _threads(helper: Claim) -> int:
    return max(1, int(helper.cpu))


class _HelpersOnCpus:
    """Tasks: any idle worker takes a lease, and keeps the sampler for the next one."""

    def __init__(self, task: Any, helper: Claim) -> None:
        """Let helpers sample a task, of which this is the reference."""
        self._lease = _sample_lease.options(max_retries=0, **_outside(helper, gpu=0))
        # In a list, so that the helper fetches the task once and not with each lease.
        self._arguments = uuid.uuid4().hex, [task], hardware_of(_CPU), _threads(helper)

    def take_more(self) -> bool:
        """Tell whether one is free, or may be started, for another lease."""
        return True

    def begin(self, requests: list[CountRequest]) -> Any:
        """Hand out a lease; return the reference to its answer."""
        return self._lease.remote(*self._arguments, requests)

    def drop(self, reference: Any) -> None:
        """Let go of a lease whose answer is not wanted any more."""
        ray.cancel(reference)

    def lose(self, reference: Any) -> None:
        """Note that the process has failed that held a lease."""


class _HelpersOnGpus:
    """Actors, which end with the sampler that they help, or when others may need their GPU.

    A process that has used a GPU keeps its memory as long as it lives, and uses that GPU whichever
    one Ray assigns to it later; Ray does not end the worker of a task.
    """

    def __init__(self, task: Any, helper: Claim, device: torch.device, most: int) -> None:
        """Let up to so many helpers sample a task, of which this is the reference."""
        options = _outside(helper, gpu=helper.gpu)
        self._actor: Any = ray.remote(max_restarts=0, resources=_gpu_model(), **options)(_GpuHelper)
        self._arguments = task, device.type, hardware_of(device), helper
        self._most = most
        self._asked_for: dict[Any, float] = {}
        # The last one of each.
        self._leases: dict[Any, Any] = {}
        self._dropped: set[Any] = set()
        weakref.finalize(self, _end_all, self._asked_for)

    def take_more(self) -> bool:
        self._end_old()
        return bool(self._free()) or len(self._leases) < self._most

    def begin(self, requests: list[CountRequest]) -> Any:
        free = self._free()
        actor = free[0] if free else self._actor.remote(*self._arguments)
        self._asked_for.setdefault(actor, time.monotonic())
        self._dropped.discard(actor)
        self._leases[actor] = actor.sample.remote(requests)
        return self._leases[actor]

    def drop(self, reference: Any) -> None:
        # It may only just be starting, for the next leases; a lease that has begun is short.
        self._dropped |= self._holding(reference)

    def lose(self, reference: Any) -> None:
        for actor in self._holding(reference):
            self._end(actor)

    def _holding(self, reference: Any) -> set[Any]:
        return {actor for actor, held in self._leases.items() if held == reference}

    def _free(self) -> list[Any]:
        leases = list(self._leases.values())
        done = ray.wait(leases, num_returns=len(leases), timeout=0)[0] if leases else []
        return [actor for actor, lease in self._leases.items() if lease in done]

    def _end_old(self) -> None:
        since = time.monotonic() - _ON_GPU_SECONDS
        for actor in {*self._free(), *self._dropped}:
            if self._asked_for[actor] < since:
                self._end(actor)

    def _end(self, actor: Any) -> None:
        del self._leases[actor], self._asked_for[actor]
        self._dropped.discard(actor)
        ray.kill(actor)


def _end_all(actors: Iterable[Any]) -> None:
    if ray.is_initialized():
        for actor in actors:
            ray.kill(actor)


class _GpuHelper:
    """Samples leases of one task on the GPU that Ray has given to its process."""

    def __init__(self, task: SamplingTask, device: str, hardware: str, claim: Claim) -> None:
        _require_hardware(hardware, torch.device(device))
        torch.set_num_threads(_threads(claim))
        bound_memory(claim.gpu)
        self._sampler = LocalSampler(task, torch.device(device))

    def sample(self, requests: list[CountRequest]) -> Answer:
        return get_node_ip_address(), self._sampler.class_counts(requests)


@ray.remote
def _sample_lease(
    key: str, task: list[Any], hardware: str, threads: int, requests: list[CountRequest]
) -> Answer:
    # Ray cancels by an interrupt, and one during an import leaves a process that cannot import that
    # module again: every later task and trial in it would fail. A lease is short; it is finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sampler = _samplers.get(key)
    if sampler is None:
        _require_hardware(hardware, _CPU)
        torch.set_num_threads(threads)
        sampler = LocalSampler(ray.get(task[0]), _CPU)
        # One at a time: a worker process outlives the trials it helps.
        _samplers.clear()
        _samplers[key] = sampler
    return get_node_ip_address(), sampler.class_counts(requests)


_samplers: dict[str, LocalSampler] = {}


def _require_hardware(asked: str, device: torch.device) -> None:
    """Refuse a lease where the same network would be another function, in its last bits."""
    if (here := hardware_of(device)) != asked:
        raise RuntimeError(f"the certificate is of {asked}, but this helper computes with {here}")
