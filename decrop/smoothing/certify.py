"""Certification of a set of images with a fixed number of draws an image."""

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from decrop.errors import InputError
from decrop.smoothing.certificates import (
    Floats,
    Integers,
    check_failure_probability,
    check_sigma,
    cohen_certificates,
)
from decrop.smoothing.sampling import ESTIMATION, SELECTION, CountRequest, Sampler

_CHUNKS_PER_GROUP = 128
_IMAGES_NAMED = 10


@dataclass(frozen=True, eq=False)
class CertificationOutcome:
    """Certificates and what they rest on.

    Attributes:
        prediction: int64 [B], the class, or -1 for abstention.
        radius: float64 [B], L2 radius in [0,1] pixels; 0 where it abstains.
        selection_counts: int64 [B, K+1], last the draws with non-finite logits.
        estimation_counts: int64 [B, K+1], likewise.
        seconds: float64 [B], share of each image in the time of sampling.
    """

    prediction: Integers
    radius: Floats
    selection_counts: Integers
    estimation_counts: Integers
    seconds: Floats


def certify(
    sampler: Sampler,
    image_count: int,
    *,
    class_count: int,
    sigma: float,
    selection_samples: int,
    estimation_samples: int,
    failure_probability: float,
    chunk_size: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> CertificationOutcome:
    """Certify images 0 to `image_count` - 1 of a sampler's task with `cohen_certificates`.

    Warns of images that abstain because some of their draws have non-finite logits.

    Args:
        sampler: counts classes of the task; `class_count`, `sigma` and `chunk_size` are the task's.
        image_count: B >= 1.
        class_count: K >= 2.
        sigma: standard deviation of the noise, in [0,1] pixels, > 0.
        selection_samples: N0 >= 1.
        estimation_samples: N >= 1.
        failure_probability: probability per image that a certificate is wrong, in (0, 1).
        chunk_size: most draws of one request, >= 1.
        on_progress: called with the draws done and the draws in total, first with none done.

    Raises:
        InputError: a value is out of its range.
    """
    check_sigma(sigma)
    check_failure_probability(failure_probability)
    for name, value in (
        ("image_count", image_count),
        ("selection_samples", selection_samples),
        ("estimation_samples", estimation_samples),
        ("chunk_size", chunk_size),
    ):
        if value < 1:
            raise InputError(f"{name} must be at least 1, but is {value}.")
    report = on_progress or (lambda done, total: None)
    total = image_count * (selection_samples + estimation_samples)
    counts = np.zeros((2, image_count, class_count + 1), dtype=np.int64)
    seconds = np.zeros(image_count)
    done = 0
    report(done, total)
    requests = _requests(
        image_count, {SELECTION: selection_samples, ESTIMATION: estimation_samples}, chunk_size
    )
    while group := list(islice(requests, _CHUNKS_PER_GROUP)):
        started = time.monotonic()
        group_counts = sampler.class_counts(group)
        elapsed = time.monotonic() - started
        images = [request.image for request in group]
        draws = np.array([request.draws for request in group])
        np.add.at(counts, ([request.stream for request in group], images), group_counts)
        np.add.at(seconds, images, elapsed * draws / draws.sum())
        done += int(draws.sum())
        report(done, total)
    _warn_of_non_finite(counts)
    certificates = cohen_certificates(
        counts[SELECTION], counts[ESTIMATION], sigma, failure_probability
    )
    return CertificationOutcome(
        prediction=certificates.prediction,
        radius=certificates.radius,
        selection_counts=counts[SELECTION],
        estimation_counts=counts[ESTIMATION],
        seconds=seconds,
    )


def _requests(
    image_count: int, samples_by_stream: dict[int, int], chunk_size: int
) -> Iterator[CountRequest]:
    for stream, samples in samples_by_stream.items():
        for image in range(image_count):
            for chunk, start in enumerate(range(0, samples, chunk_size)):
                yield CountRequest(image, stream, chunk, min(chunk_size, samples - start))


def _warn_of_non_finite(counts: Integers) -> None:
    non_finite = counts[:, :, -1].sum(axis=0)
    images = np.flatnonzero(non_finite)
    if len(images):
        named = ", ".join(str(image) for image in images[:_IMAGES_NAMED])
        more = ", ..." if len(images) > _IMAGES_NAMED else ""
        warnings.warn(
            f"{len(images)} images abstain because {non_finite.sum()} of their draws have "
            f"non-finite logits: {named}{more} (positions in the task).",
            RuntimeWarning,
            stacklevel=3,
        )
