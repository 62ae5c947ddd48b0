"""Class counts of a network under Gaussian noise.

Shapes: B images, C channels, H height, W width, K classes, S noise samples in a chunk, P chunks in
a batch. A chunk is the unit of work: S samples of the noise of one image from random bits of their
own, named by (seed, image id, stream, chunk).

Counts do not depend on who does which part of the work. Kernels give other last bits in other batch
shapes, in other rows of a batch and on other numbers of threads (seen in fp32 with MKL and oneDNN).
So a request names the size of its batch and its slot there (`places`), which follow from its rank
in a round of requests, and kernels on the CPU run on one thread each; several batches run at once
instead. P is found once (`decrop.smoothing.probe`) and kept
(`decrop.trial.certify.with_recorded_batch_size`).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from decrop.errors import InputError
from decrop.smoothing.certificates import check_sigma
from decrop.smoothing.execution import Layout, Precision, reproducible_kernels, to_device
from decrop.smoothing.noise import Noise, noise_source
from decrop.smoothing.prepare import as_given, prepared

SELECTION, ESTIMATION = STREAMS = 0, 1

Work = TypeVar("Work")
Result = TypeVar("Result")


@dataclass(frozen=True)
class CountRequest:
    """The first samples of one chunk of one image.

    Attributes:
        image: position in the task's images.
        stream: purpose of the samples (`SELECTION`, `ESTIMATION`); streams are independent.
        chunk: number of the chunk in the stream, from 0.
        samples: in [1, chunk_size].
        slots: chunks in its batch, in [1, chunks_per_batch].
        slot: its place among them, in [0, slots).
    """

    image: int
    stream: int
    chunk: int
    samples: int
    slots: int = 1
    slot: int = 0


def places(requests: int, chunks_per_batch: int) -> Iterator[tuple[int, int]]:
    """Yield the slots and the slot of each of so many requests that are sampled together.

    They fill batches of `chunks_per_batch` chunks. The last fill batches of powers of two, none of
    more than half of what is left, so no row is computed in vain, a device meets few shapes, and
    threads that take a batch each end at about the same time.
    """
    left = requests
    while left:
        slots = min(chunks_per_batch, 1 << (((left + 1) // 2).bit_length() - 1))
        for slot in range(slots):
            yield slots, slot
        left -= slots


@dataclass(frozen=True, eq=False)
class SamplingTask:
    """Everything that a process needs to count classes.

    Attributes:
        network: maps noisy images, float [N, C, H, W] in [0,1] pixels plus noise, to logits [N, K];
            one row's logits must not depend on other rows.
        images: uint8, or float32 in [0,1], [B, C, H, W].
        image_ids: int64 [B], numbers of the images in their split; they name the noise, so the
            noise of an image is the same in whichever selection of images it stands.
        class_count: K.
        sigma: standard deviation of the noise, in [0,1] pixels, > 0.
        seed: of the noise.
        chunk_size: S.
        chunks_per_batch: P, the most chunks of a batch.
        precision: in which the network computes; the noise is added before.
        noise: how it is sampled and added (`decrop.smoothing.noise`).
        layout: of images in memory, when the network takes them.
    """

    network: nn.Module
    images: Tensor
    image_ids: Tensor
    class_count: int
    sigma: float
    seed: int
    chunk_size: int
    chunks_per_batch: int
    precision: Precision
    noise: Noise = "grid"
    layout: Layout = "channels_last"

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        if self.images.ndim != 4 or not _holds_pixels(self.images):
            raise InputError(
                "images must be [images, channels, height, width], uint8 or float32 in [0,1], but "
                f"are {self.images.dtype} {list(self.images.shape)}."
            )
        if self.image_ids.shape != self.images.shape[:1]:
            raise InputError(
                f"{len(self.images)} images need as many image_ids, but those have shape "
                f"{list(self.image_ids.shape)}."
            )
        for name in ("class_count", "chunk_size", "chunks_per_batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, but is {getattr(self, name)}.")


def full_batches(task: SamplingTask, batches: int) -> list[CountRequest]:
    """Return requests that fill so many batches with samples of the first image."""
    slots = task.chunks_per_batch
    return [
        CountRequest(0, ESTIMATION, chunk, task.chunk_size, slots, chunk % slots)
        for chunk in range(batches * slots)
    ]


class Sampler(Protocol):
    """Counts classes under noise, in this process or elsewhere."""

    def class_counts(self, requests: Sequence[CountRequest]) -> NDArray[np.int64]:
        """Return int64 [len(requests), K+1]: samples of each class, last those not finite."""
        ...


@runtime_checkable
class StreamingSampler(Sampler, Protocol):
    """A sampler whose counts come one by one, each worth keeping."""

    def streamed(
        self, requests: Sequence[CountRequest]
    ) -> Iterator[tuple[list[int], NDArray[np.int64]]]:
        """Yield positions of requests and their counts (see `class_counts`) as they come."""
        ...


MakeSampler = Callable[[SamplingTask], Sampler]


class LocalSampler:
    """Counts classes in this process.

    The counts of a request are the same, bit for bit, whatever other requests come with it, on the
    same kind of device with the same task settings.
    """

    def __init__(self, task: SamplingTask, device: torch.device) -> None:
        """Prepare a copy of the task's network: eval mode, BatchNorm folded, in its precision."""
        self._task = task
        self._device = device
        self._noisy = NoisyBatches(task, task.network, device)
        self._numbers = torch.arange(task.chunk_size, device=device)

    def class_counts(self, requests: Sequence[CountRequest]) -> NDArray[np.int64]:
        """Return int64 [len(requests), K+1]: samples of each class, last those not finite."""
        counts = np.zeros((len(requests), self._task.class_count + 1), dtype=np.int64)
        if not requests:
            return counts
        batches = self._noisy.batches(requests)
        asked = [[None if row is None else requests[row] for row in batch] for batch in batches]
        slot_counts = torch.cat(self._run(asked)).cpu().numpy()
        for row, counted in zip(chain(*batches), slot_counts, strict=True):
            if row is not None:
                counts[row] = counted
        return counts

    def _run(self, batches: list[list[CountRequest | None]]) -> list[Tensor]:
        with reproducible_kernels():
            if self._device.type == "cpu":
                return _on_single_threads(self._batch_counts, batches)
            return [self._batch_counts(batch) for batch in batches]

    @torch.inference_mode()
    def _batch_counts(self, batch: list[CountRequest | None]) -> Tensor:
        """Return int64 [slots, K+1], zero where a slot is empty."""
        task = self._task
        logits = self._noisy.outputs(batch)
        noisy_images = len(batch) * task.chunk_size
        if logits.shape != (noisy_images, task.class_count):
            raise InputError(
                f"the network gives logits {list(logits.shape)} for {noisy_images} images of "
                f"{task.class_count} classes."
            )
        finite = logits.isfinite().all(dim=1)
        classes = torch.where(finite, logits.argmax(dim=1), task.class_count)
        samples = to_device([request.samples if request else 0 for request in batch], self._device)
        sampled = (self._numbers < samples[:, None]).long()
        counts = torch.zeros(
            len(batch), task.class_count + 1, dtype=torch.int64, device=self._device
        )
        return counts.scatter_add_(1, classes.reshape(sampled.shape), sampled)


class NoisyBatches:
    """What a network makes of noisy images, in batches of up to P*S rows."""

    def __init__(self, task: SamplingTask, network: nn.Module, device: torch.device) -> None:
        """Prepare a copy of a network: eval mode, BatchNorm folded, in the task's precision.

        Args:
            task: whose images, noise and shapes are used, and not its network.
        """
        self._task = task
        self._device = device
        self._images = task.images.to(device)
        self._image_ids = [int(image_id) for image_id in task.image_ids]
        self._noise = noise_source(
            task.noise,
            sigma=task.sigma,
            seed=task.seed,
            chunk_size=task.chunk_size,
            device=device,
        )
        self._network = prepared(network, task.precision, task.layout, device)

    def batches(self, requests: Sequence[CountRequest]) -> list[tuple[int | None, ...]]:
        """Return which request takes each slot of each batch, the largest batches first."""
        by_place: dict[int, list[list[int]]] = {}
        for row, request in enumerate(requests):
            self._check(request)
            slots = by_place.setdefault(request.slots, [[] for _ in range(request.slots)])
            slots[request.slot].append(row)
        return [
            batch
            for slots in sorted(by_place, reverse=True)
            for batch in zip_longest(*by_place[slots])
        ]

    def _check(self, request: CountRequest) -> None:
        task = self._task
        if not 1 <= request.samples <= task.chunk_size:
            raise InputError(
                f"a request must ask for 1 to {task.chunk_size} samples (chunk_size), "
                f"not {request.samples}."
            )
        if not 0 <= request.slot < request.slots <= task.chunks_per_batch:
            raise InputError(
                f"a request must take one of at most {task.chunks_per_batch} slots "
                f"(chunks_per_batch), not slot {request.slot} of {request.slots}."
            )

    def outputs(self, batch: Sequence[CountRequest | None]) -> Tensor:
        """Return the network's outputs [slots*S, ...] for the noisy images of a batch."""
        noisy = self._noisy_images(batch).flatten(0, 1)
        outputs: Tensor = self._network(as_given(noisy, self._task.precision, self._task.layout))
        return outputs

    def _noisy_images(self, batch: Sequence[CountRequest | None]) -> Tensor:
        """Return float32 [slots, S, C, H, W]; an empty slot has those of another."""
        anything = next(request for request in batch if request is not None)
        requests = [request or anything for request in batch]
        rows = to_device([request.image for request in requests], self._device)
        return self._noise.noisy(
            self._images.index_select(0, rows),
            [(self._image_ids[r.image], r.stream, r.chunk) for r in requests],
        )


def _holds_pixels(images: Tensor) -> bool:
    if images.dtype == torch.float32:
        return bool(((images >= 0) & (images <= 1)).all())
    return images.dtype == torch.uint8


def _on_single_threads(function: Callable[[Work], Result], work: Sequence[Work]) -> list[Result]:
    threads = torch.get_num_threads()
    try:
        # Each thread of the pool sets its own number of kernel threads.
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, work))
    finally:
        torch.set_num_threads(threads)
