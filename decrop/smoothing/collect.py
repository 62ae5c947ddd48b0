"""Counts of a set of images, sampled in groups that are short enough to show progress."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Self

import numpy as np

from decrop.errors import InputError
from decrop.smoothing.certificates import Integers
from decrop.smoothing.sampling import STREAMS, CountRequest, Sampler, SamplingTask, places

# Long enough that starting a group costs nothing, short enough for a bar, and for a killed run to
# lose little.
_GROUP_SECONDS = 8.0
_FIRST_GROUP = 64


@dataclass(frozen=True)
class CertificationProgress:
    """How far a certification has come.

    Attributes:
        images_done: images that need no further samples.
        samples: noise samples so far.
        samples_expected: noise samples in all; an estimate where images stop early.
        restored: those of the samples that an earlier run had drawn.
    """

    images_done: int
    images: int
    samples: int
    samples_expected: int
    restored: int = 0


OnProgress = Callable[[CertificationProgress], None]


class CountCollector:
    """Adds up the counts of each image by stream, and each image's share of the time.

    Attributes:
        images: B.
        chunk_size: most samples of one request.
        counts: int64 [streams, B, K+1], last the samples that are not finite.
        seconds: float64 [B].
    """

    @classmethod
    def of(cls, task: SamplingTask, sampler: Sampler) -> Self:
        """Start with no samples of the images of a task."""
        return cls(
            sampler,
            images=len(task.images),
            class_count=task.class_count,
            chunk_size=task.chunk_size,
            chunks_per_batch=task.chunks_per_batch,
        )

    def __init__(
        self,
        sampler: Sampler,
        *,
        images: int,
        class_count: int,
        chunk_size: int,
        chunks_per_batch: int = 1,
    ) -> None:
        """Start with no samples.

        Args:
            sampler: counts classes of a task, of which are the numbers but that of images.
            images: B >= 1.
            class_count: K >= 2.
            chunk_size: most samples of one request, >= 1.
            chunks_per_batch: most requests of one batch, >= 1.
        """
        for name, value in (("images", images), ("chunk_size", chunk_size)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, but is {value}.")
        self.images = images
        self.chunk_size = chunk_size
        self._chunks_per_batch = chunks_per_batch
        self.counts = np.zeros((len(STREAMS), images, class_count + 1), dtype=np.int64)
        self.seconds = np.zeros(images)
        self._sampler = sampler
        self._group = _FIRST_GROUP

    @property
    def samples(self) -> Integers:
        """Samples of each image so far, int64 [B]."""
        sampled: Integers = self.counts.sum(axis=(0, 2))
        return sampled

    def sample(
        self,
        stream: int,
        images: Sequence[int],
        start: int,
        stop: int,
        on_group: Callable[[], None],
    ) -> None:
        """Add samples number `start` to `stop` of a stream of each of some images.

        `start` is a multiple of the chunk size. `on_group` is called after each group.
        """
        requests = self._requests(stream, images, start, stop)
        while group := list(islice(requests, self._whole_batches(self._group))):
            started = time.monotonic()
            counts = self._sampler.class_counts(group)
            elapsed = max(time.monotonic() - started, 1e-3)
            rows = [request.image for request in group]
            samples = np.array([request.samples for request in group])
            np.add.at(self.counts, ([request.stream for request in group], rows), counts)
            np.add.at(self.seconds, rows, elapsed * samples / samples.sum())
            # No more than twice as many: groups that a journal answers take no time at all.
            self._group = min(2 * self._group, max(1, int(len(group) * _GROUP_SECONDS / elapsed)))
            on_group()

    def _requests(
        self, stream: int, images: Sequence[int], start: int, stop: int
    ) -> Iterator[CountRequest]:
        size = self.chunk_size
        starts = range(start, stop, size)
        place = places(len(images) * len(starts), self._chunks_per_batch)
        for image in images:
            for first in starts:
                samples = min(size, stop - first)
                yield CountRequest(int(image), stream, first // size, samples, *next(place))

    def _whole_batches(self, requests: int) -> int:
        """Return at least so many requests, a multiple of those in a batch."""
        return -(-requests // self._chunks_per_batch) * self._chunks_per_batch
