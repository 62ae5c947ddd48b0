"""Class counts drawn by a trial's own process and by helpers anywhere in the cluster.

The own process always draws, so certification never waits for room. Helpers are Ray tasks outside
the trial's placement group that take a short lease of requests each; they may start late, or never,
or die. Counts depend on the request alone, so whoever answers first is right and answers once.
"""

import time
import uuid
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from decrop.smoothing.sampling import CountRequest, LocalSampler, SamplingTask
from tune.cluster import Claim

# The length of a lease on this process's device; a helper holds its resources no longer at a time.
_LEASE_SECONDS = 2.0
# A cluster in which helpers keep dying is left alone.
_LOST_LEASES = 3

Counts = NDArray[np.int64]
Lease = tuple[int, int]


class ShardedSampler:
    """Answers requests for class counts together with helpers (`decrop.smoothing.Sampler`)."""

    def __init__(
        self, task: SamplingTask, device: torch.device, *, helper: Claim, max_helpers: int
    ) -> None:
        """Prepare the own sampler and send the task to the object store, once.

        Args:
            task: what to sample.
            device: of the own process; helpers use the same kind, so without a share of a GPU they
                do not help on one.
            helper: what each helper claims.
            max_helpers: helpers at a time.
        """
        self._batch = task.chunks_per_batch
        self._own = LocalSampler(task, device)
        self._device = device.type
        helps = device.type == "cpu" or helper.gpu > 0
        self._max_helpers = max_helpers if helps else 0
        self._draw = _draw.options(
            num_cpus=helper.cpu,
            num_gpus=helper.gpu if device.type == "cuda" else 0,
            max_retries=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                placement_group=None  # type: ignore[arg-type]  # outside the trial's group
            ),
        )
        self._threads = max(1, int(helper.cpu))
        self._key = uuid.uuid4().hex
        self._task = ray.put(task) if self._max_helpers else None
        self._lost = 0
        self._lease_batches = 1
        self.leases_by_helpers = 0

    def class_counts(self, requests: Sequence[CountRequest]) -> Counts:
        """Return int64 [len(requests), K+1], as `LocalSampler` would."""
        if not requests:
            return self._own.class_counts(requests)
        pending = deque(self._leases(len(requests)))
        answers: dict[Lease, Counts] = {}
        helpers: dict[Any, Lease] = {}
        leases = len(pending)
        try:
            while len(answers) < leases:
                self._collect(helpers, answers, pending)
                self._hand_out(requests, pending, helpers)
                lease = self._next_own(pending, helpers, answers)
                if lease is not None:
                    answers.setdefault(lease, self._draw_own(requests, lease))
        finally:
            for reference in helpers:
                ray.cancel(reference)
        return np.concatenate([answers[lease] for lease in sorted(answers)])

    def _leases(self, requests: int) -> list[Lease]:
        size = self._batch * self._lease_batches
        return [(start, min(start + size, requests)) for start in range(0, requests, size)]

    def _draw_own(self, requests: Sequence[CountRequest], lease: Lease) -> Counts:
        started = time.monotonic()
        counts = self._own.class_counts(requests[slice(*lease)])
        seconds_a_batch = (time.monotonic() - started) * self._batch / (lease[1] - lease[0])
        self._lease_batches = max(1, int(_LEASE_SECONDS / max(seconds_a_batch, 1e-9)))
        return counts

    def _hand_out(
        self,
        requests: Sequence[CountRequest],
        pending: deque[Lease],
        helpers: dict[Any, Lease],
    ) -> None:
        # The last lease stays with the own process, which would otherwise have nothing to do.
        while len(pending) > 1 and len(helpers) < self._max_helpers and self._lost < _LOST_LEASES:
            lease = pending.pop()
            part = list(requests[slice(*lease)])
            # In a list, so that the helper fetches the task once and not with each lease.
            reference = self._draw.remote(
                self._key, [self._task], self._device, self._threads, part
            )
            helpers[reference] = lease

    def _collect(
        self, helpers: dict[Any, Lease], answers: dict[Lease, Counts], pending: deque[Lease]
    ) -> None:
        if not helpers:
            return
        ready, _ = ray.wait(list(helpers), num_returns=len(helpers), timeout=0)
        for reference in ready:
            lease = helpers.pop(reference)
            try:
                counts = ray.get(reference)
            except RayError:
                self._lost += 1
                if lease not in answers:
                    pending.append(lease)
            else:
                self._lost = 0
                self.leases_by_helpers += 1
                answers.setdefault(lease, counts)

    def _next_own(
        self, pending: deque[Lease], helpers: dict[Any, Lease], answers: dict[Lease, Counts]
    ) -> Lease | None:
        if pending:
            return pending.popleft()
        # A helper may not even have started; what it holds is drawn here too.
        held = [lease for lease in helpers.values() if lease not in answers]
        return held[-1] if held else None


@ray.remote
def _draw(
    key: str, task: list[Any], device: str, threads: int, requests: list[CountRequest]
) -> Counts:
    sampler = _samplers.get(key)
    if sampler is None:
        torch.set_num_threads(threads)
        sampler = LocalSampler(ray.get(task[0]), torch.device(device))
        # One at a time: a worker process outlives the trials it helps.
        _samplers.clear()
        _samplers[key] = sampler
    return sampler.class_counts(requests)


_samplers: dict[str, LocalSampler] = {}
