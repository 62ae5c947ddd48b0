"""Class counts of a classifier behind an endpoint, within its query budget."""

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from decrop.black_box.client import EndpointClient
from decrop.config import EndpointSettings, ExecutionSettings
from decrop.errors import InputError
from decrop.networks.denoised import DenoisedClassifier
from decrop.smoothing.backend import Backend
from decrop.smoothing.execution import reproducible_kernels
from decrop.smoothing.sampling import (
    CountRequest,
    MakeSampler,
    NoisyBatches,
    Sampler,
    SamplingTask,
)
from decrop.wording import counted


@dataclass(frozen=True)
class QueryPlan:
    """What is about to be asked.

    Attributes:
        most: images that may still be asked, repetitions of failed requests aside.
        kept: answers that are there already, and are not asked for again.
        left: of the budget; None without one.
        exact: whether `most` is asked in any case.
    """

    url: str
    most: int
    kept: int
    left: int | None
    exact: bool

    @property
    def within_budget(self) -> bool:
        """Whether the budget suffices for the most."""
        return self.left is None or self.most <= self.left

    def check(self) -> None:
        """Raise InputError if the budget cannot suffice."""
        if self.exact and not self.within_budget:
            raise InputError(
                "classifier.endpoint.query_budget: "
                f"{counted(self.most, 'image is', 'images are')} to be asked of {self.url}, but "
                f"{self.left:,} are left of the budget; raise it, or lower the samples or images."
            )

    def __str__(self) -> str:
        """Say it in a sentence."""
        asked = (
            f"asks {self.url} for {'' if self.exact else 'at most '}{counted(self.most, 'image')}"
        )
        kept = f" ({self.kept:,} are answered already)" if self.kept else ""
        if self.left is None:
            return f"{asked}{kept}; there is no classifier.endpoint.query_budget"
        said = f"{asked}{kept}; {self.left:,} are left of the budget"
        if self.exact or self.within_budget:
            return said
        return f"{said}, so it may stop before its end, and go on from there with a larger one"


# Requests that wait for each one under way, so that none has to wait for the denoiser.
_READY = 1
_Chunk = tuple[int, Tensor]
_Counted = tuple[list[int], NDArray[np.int64]]


# Of images [B, C, H, W] in [0,1] pixels, float32 [B, K]; and, by name, `stop`, an event after which
# nothing more is sent.
Probabilities = Callable[..., Tensor]


class EndpointBackend(Backend):
    """An endpoint, of which nothing is tried out, for that would be asked of it."""

    costs = True

    def __init__(self, client: EndpointClient, probabilities: Probabilities) -> None:
        """Take how the endpoint is asked, and what counts it."""
        self._client = client
        self._probabilities = probabilities

    def fitting(
        self,
        execution: ExecutionSettings,
        network: nn.Module,
        image_shape: tuple[int, ...],
        *,
        trained_through: bool = False,
    ) -> ExecutionSettings:
        """Return the settings; where nothing but the endpoint is asked, precision auto is fp32."""
        if isinstance(network, DenoisedClassifier) or execution.precision != "auto":
            return execution
        return execution.model_copy(update={"precision": "fp32"})

    def chunks_per_batch(self, task: SamplingTask, device: torch.device) -> int:
        """Return as many chunks as one request takes."""
        return max(1, self._client.settings.batch_size // task.chunk_size)

    def sampler(
        self, task: SamplingTask, device: torch.device, make_sampler: MakeSampler | None = None
    ) -> Sampler:
        """Return a sampler that asks the endpoint from this process alone."""
        return AskingSampler(task, device, self._probabilities, self._client.settings)

    def announce(
        self, samples: int, *, answered: int = 0, exact: bool, say: Callable[[str], None]
    ) -> None:
        """Say how many images are asked for and how many are left of the budget; check it."""
        plan = QueryPlan(
            url=self._client.url,
            most=max(0, samples - answered),
            kept=answered,
            left=self._client.ledger.left(),
            exact=exact,
        )
        say(str(plan))
        plan.check()

    def spent(self) -> str | None:
        """Say what the endpoint has been asked for in all."""
        ledger = self._client.ledger
        spent = ledger.spent()
        of_budget = "" if ledger.budget is None else f" of a budget of {ledger.budget:,}"
        where = "" if ledger.path is None else f" (counted in {ledger.path})"
        again = f", {spent.retries:,} of them repeated" if spent.retries else ""
        return (
            f"asked {self._client.url} for {counted(spent.asked, 'image')}{of_budget} so far, in "
            f"{counted(spent.requests, 'request')}{again}{where}"
        )

    def spent_document(self) -> dict[str, Any]:
        """Return what the endpoint has been asked for in all, for JSON."""
        spent = self._client.ledger.spent()
        return {
            "queries": {
                "asked": spent.asked,
                "answered": spent.answered,
                "requests": spent.requests,
                "retries": spent.retries,
                "budget": self._client.ledger.budget,
            }
        }


class AskingSampler:
    """Counts classes by asking an endpoint, behind a denoiser that computes in this process.

    The denoiser computes in the same batches as in `LocalSampler`, so it makes the same of the same
    noise; of these only draws that count are sent. Chunks go whole, as many in a request as fit,
    and several requests at once. Without a denoiser images with noise are sent in fp32, whatever
    the precision.
    """

    def __init__(
        self,
        task: SamplingTask,
        device: torch.device,
        probabilities: Probabilities,
        settings: EndpointSettings,
    ) -> None:
        """Take a task whose network is an endpoint, or ends with one.

        Args:
            device: where the denoiser computes.
        """
        self._probabilities = probabilities
        self._settings = settings
        self._class_count = task.class_count
        self._device = device
        denoiser: nn.Module = nn.Identity()
        if isinstance(task.network, DenoisedClassifier):
            if task.network.mirrored:
                # Settings refuse it; a bundle may name one classifier and hold another.
                raise InputError(
                    "denoiser.mirrored averages logits of two images, and an endpoint is asked "
                    "about one."
                )
            denoiser = task.network.denoiser
        else:
            task = dataclasses.replace(task, precision="fp32")
        self._chunk_size = task.chunk_size
        self._noisy = NoisyBatches(task, denoiser, device)

    def class_counts(self, requests: Sequence[CountRequest]) -> NDArray[np.int64]:
        """Return int64 [len(requests), K+1]: draws of each class, last none.

        Raises:
            EndpointError: the endpoint does not answer, or not what a classifier must.
            QueryBudgetError: the budget does not suffice.
        """
        counts = np.zeros((len(requests), self._class_count + 1), dtype=np.int64)
        for rows, found in self.streamed(requests):
            counts[rows] = found
        return counts

    def streamed(self, requests: Sequence[CountRequest]) -> Iterator[_Counted]:
        """Yield positions of requests and their counts (see `class_counts`) as answers come.

        After a failure, or Ctrl-C, nothing more is sent; what was under way is still yielded, and
        the failure raised then. A second Ctrl-C waits for nothing.
        """
        if not requests:
            return
        threads = torch.get_num_threads()
        on_cpu = self._device.type == "cpu"
        computers = threads if on_cpu else 1
        stop = threading.Event()
        try:
            with (
                reproducible_kernels(),
                # Each thread computes on one, as those of `LocalSampler` do.
                ThreadPoolExecutor(
                    computers,
                    initializer=torch.set_num_threads,
                    initargs=(1 if on_cpu else threads,),
                ) as computing,
                ThreadPoolExecutor(self._settings.concurrency) as asking,
            ):
                try:
                    yield from self._streamed(requests, computing, computers, asking, stop)
                finally:
                    stop.set()
        finally:
            torch.set_num_threads(threads)

    def _streamed(
        self,
        requests: Sequence[CountRequest],
        computing: ThreadPoolExecutor,
        computers: int,
        asking: ThreadPoolExecutor,
        stop: threading.Event,
    ) -> Iterator[_Counted]:
        settings = self._settings
        together = max(1, settings.batch_size // self._chunk_size)
        enough = (1 + _READY) * settings.concurrency
        batches = iter(self._noisy.batches(requests))
        next_batch = next(batches, None)
        computed: set[Future[list[_Chunk]]] = set()
        asked: set[Future[_Counted]] = set()
        ready: list[_Chunk] = []
        failure: BaseException | None = None
        while True:
            while failure is None and len(ready) >= together:
                asked.add(asking.submit(self._ask, ready[:together], stop))
                del ready[:together]
            while (
                failure is None
                and next_batch is not None
                and len(computed) < computers
                and len(asked) < enough
            ):
                computed.add(computing.submit(self._compute, requests, next_batch))
                next_batch = next(batches, None)
            if failure is None and ready and not computed and next_batch is None:
                asked.add(asking.submit(self._ask, ready, stop))
                ready = []
            if not computed and not asked:
                break
            try:
                done = _first_completed(set[Future[Any]]().union(computed, asked))
            except KeyboardInterrupt as interrupt:
                if failure is not None:
                    raise
                failure = interrupt
                stop.set()
                continue
            for future in done:
                error = future.exception()
                if error is not None:
                    failure = failure or error
                    stop.set()
            for chunks in computed & done:
                if chunks.exception() is None:
                    ready += chunks.result()
            for answer in asked & done:
                if answer.exception() is None:
                    yield answer.result()
            computed -= done
            asked -= done
        if failure is not None:
            raise failure

    @torch.inference_mode()
    def _compute(
        self, requests: Sequence[CountRequest], batch: tuple[int | None, ...]
    ) -> list[_Chunk]:
        """Return the images of each request in a batch, on the CPU."""
        slots = [None if row is None else requests[row] for row in batch]
        images = self._noisy.outputs(slots).cpu().split(self._chunk_size)
        return [
            (row, chunk[: requests[row].samples])
            for row, chunk in zip(batch, images, strict=True)
            if row is not None
        ]

    @torch.inference_mode()
    def _ask(self, chunks: list[_Chunk], stop: threading.Event) -> _Counted:
        images = [chunk for _, chunk in chunks]
        classes = self._probabilities(torch.cat(images), stop=stop).argmax(1)
        parts = classes.split([len(chunk) for chunk in images])
        counts = [torch.bincount(part, minlength=self._class_count + 1) for part in parts]
        return [row for row, _ in chunks], torch.stack(counts).numpy()


def _first_completed(futures: set[Future[Any]]) -> set[Future[Any]]:
    return wait(futures, return_when=FIRST_COMPLETED).done
