"""Procedures of certification: with equally many samples an image, as few as do, or ever more."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from decrop.errors import InputError
from decrop.smoothing.anytime import anytime_certificates
from decrop.smoothing.certificates import (
    ABSTAIN,
    Certificates,
    Floats,
    Integers,
    certificates_from_radii,
    check_failure_probability,
    check_sigma,
)
from decrop.smoothing.collect import CertificationProgress, CountCollector, OnProgress
from decrop.smoothing.sampling import ESTIMATION, SELECTION
from decrop.smoothing.sequential import look_schedule, sequential_design
from decrop.smoothing.worth import patience_of_radii, worthwhile
from decrop.wording import counted

_IMAGES_NAMED = 10
# Of the most samples, that an image is expected to take while nothing is known of it.
_EXPECTED_SHARE = 0.1

Ending = Literal[
    "complete", "largest_radius", "out_of_reach", "most_samples", "misclassified", "not_finite"
]


class CertificateRule(Protocol):
    """Counts in, certificate out."""

    def __call__(self, selection_counts: Integers, estimation_counts: Integers) -> Certificates:
        """Certify from counts int64 [B, K+1] of two independent streams, all images at once."""
        ...


@dataclass(frozen=True, eq=False)
class CertificationOutcome:
    """Certificates and what they rest on.

    Attributes:
        prediction: int64 [B], the class, or -1 for abstention.
        radius: float64 [B], L2 radius in [0,1] pixels; 0 where it abstains.
        selection_counts: int64 [B, K+1], last the samples with non-finite logits.
        estimation_counts: int64 [B, K+1], likewise.
        ending: [B], why no more was sampled (`Ending`).
        seconds: float64 [B], share of each image in the time of sampling.
    """

    prediction: Integers
    radius: Floats
    selection_counts: Integers
    estimation_counts: Integers
    ending: NDArray[np.str_]
    seconds: Floats

    @property
    def samples(self) -> Integers:
        """Noise samples of each image, those that chose the class included, int64 [B]."""
        samples: Integers = self.selection_counts.sum(1) + self.estimation_counts.sum(1)
        return samples


def certify_fixed(
    collector: CountCollector,
    rule: CertificateRule,
    *,
    selection_samples: int,
    estimation_samples: int,
    on_progress: OnProgress | None = None,
) -> CertificationOutcome:
    """Certify images with equally many samples each.

    Warns of images that abstain because some of their samples have non-finite logits.

    Args:
        collector: of the images, without counts.
        rule: turns the counts into certificates.
        selection_samples: N0 >= 1.
        estimation_samples: N >= 1.
        on_progress: called with none done first, then after each group of samples.
    """
    samples = {SELECTION: selection_samples, ESTIMATION: estimation_samples}
    _require_samples(selection_samples=selection_samples, estimation_samples=estimation_samples)
    report = _reporter(collector, sum(samples.values()), on_progress)
    report()
    for stream, count in samples.items():
        collector.sample(stream, range(collector.images), 0, count, report)
    _warn_of_non_finite(collector.counts)
    return _outcome(
        collector, rule(collector.counts[SELECTION], collector.counts[ESTIMATION]), "complete"
    )


def certify_adaptive(
    collector: CountCollector,
    *,
    labels: Integers | None,
    sigma: float,
    radii: Floats,
    given_up: Floats,
    selection_samples: int,
    max_samples: int,
    failure_probability: float,
    on_progress: OnProgress | None = None,
) -> CertificationOutcome:
    """Certify images at a grid of radii, with as few samples as do.

    The class with most selection samples is the candidate. Its probability is then tested on fresh
    samples, in rounds of all images that are still sampling (`sequential_design`). An image stops
    once it is certified at the largest radius, once no further radius is worth its samples
    (`worthwhile`), or after `max_samples`. When that is depends on how many images lie near each
    radius, as the selection samples of all show (`patience_of_radii`). Where labels are known an
    image also stops, abstaining, where the candidate is not its label, for no further sample could
    make it count for certified accuracy. The certified radius is a member of the grid. For each
    image the probability that a certificate is given and wrong is at most `failure_probability`,
    whatever the labels and the other images.

    Warns of images that abstain because some of their samples have non-finite logits.

    Args:
        collector: of the images, without counts.
        labels: int64 [B], true classes, which decide how much is sampled, not what is certified;
            None where they are not known.
        sigma: standard deviation of the task's noise, in [0,1] pixels, > 0.
        radii: float64 [R], increasing, >= 0, in [0,1] pixels.
        given_up: float64 [R], share of images whose certificate at each radius may be given up for
            fewer samples, > 0 (`GIVEN_UP`).
        selection_samples: N0 >= 1.
        max_samples: most samples of an image, > N0.
        failure_probability: probability per image that a certificate is wrong, in (0, 1).
        on_progress: called with none done first, then after each group of samples.
    """
    _require_samples(selection_samples=selection_samples)
    _require_more(max_samples, selection_samples)
    looks = look_schedule(max_samples - selection_samples, collector.chunk_size)
    design = sequential_design(radii, sigma, failure_probability, looks)
    image_count = collector.images
    ending = np.full(image_count, "most_samples", dtype="<U16")
    succeeded = np.zeros((image_count, len(radii)), dtype=bool)
    expected = np.zeros(image_count)
    sampling = np.arange(image_count)

    def report() -> None:
        if on_progress is not None:
            sampled = collector.samples
            in_all = np.maximum(sampled, expected).sum()
            on_progress(
                CertificationProgress(
                    image_count - len(sampling),
                    image_count,
                    int(sampled.sum()),
                    int(np.ceil(in_all)),
                )
            )

    def stop(stopping: NDArray[np.bool_], reason: Ending) -> None:
        nonlocal sampling
        ending[sampling[stopping]] = reason
        expected[sampling[stopping]] = 0
        sampling = sampling[~stopping]

    expected[:] = selection_samples + _EXPECTED_SHARE * (max_samples - selection_samples)
    report()
    collector.sample(SELECTION, sampling.tolist(), 0, selection_samples, report)
    selection, estimation = collector.counts[SELECTION], collector.counts[ESTIMATION]
    candidate = selection[:, :-1].argmax(axis=1)
    selected_others = selection_samples - selection[sampling, candidate]
    patience = patience_of_radii(
        design, given_up=given_up, samples=selection_samples, other_samples=selected_others
    )
    stop(selection[sampling, -1] > 0, "not_finite")
    if labels is not None:
        stop(candidate[sampling] != labels[sampling], "misclassified")
    taken = 0
    for number, look in enumerate(looks.tolist()):
        if not len(sampling):
            break
        expected[sampling] = np.maximum(expected[sampling], selection_samples + look)
        collector.sample(ESTIMATION, sampling.tolist(), taken, look, report)
        taken = look
        stop(estimation[sampling, -1] > 0, "not_finite")
        other_samples = look - estimation[sampling, candidate[sampling]]
        succeeded[sampling] |= other_samples[:, None] <= design.limits[:, number]
        reached = _reached(succeeded[sampling])
        complete = reached == len(radii)
        stop(complete, "largest_radius")
        if number < len(looks) - 1 and len(sampling):
            other_samples = other_samples[~complete]
            going_on, further = worthwhile(
                design,
                number,
                patience=patience,
                reached=reached[~complete],
                other_samples=other_samples,
                known_samples=selection_samples + look,
                known_other_samples=other_samples + selected_others[sampling],
            )
            expected[sampling] = selection_samples + look + further
            stop(~going_on, "out_of_reach")
    sampling = sampling[:0]
    report()
    _warn_of_non_finite(collector.counts)
    reached = _reached(succeeded)
    certified = (reached > 0) & (ending != "not_finite")
    return CertificationOutcome(
        prediction=np.where(certified, candidate, ABSTAIN),
        radius=np.where(certified, radii[np.maximum(reached, 1) - 1], 0.0),
        selection_counts=selection,
        estimation_counts=estimation,
        ending=ending,
        seconds=collector.seconds,
    )


def certify_anytime(
    collector: CountCollector,
    *,
    sigma: float,
    selection_samples: int,
    max_samples: int,
    failure_probability: float,
    on_progress: OnProgress | None = None,
) -> CertificationOutcome:
    """Certify images so that more samples may follow at any time.

    The class with most selection samples is the candidate. The lower bound of its probability holds
    at every number of samples at once (`anytime_certificates`), so the largest radius counts of
    those at the looks. For each image the probability that a certificate is wrong is at most
    `failure_probability` for this and all later certifications of the task together, whatever
    `max_samples` these have.

    Warns of images that abstain because some of their samples have non-finite logits.

    Args:
        collector: of the images, without counts.
        sigma: standard deviation of the task's noise, in [0,1] pixels, > 0.
        selection_samples: N0 >= 1, the same in all certifications of the task.
        max_samples: samples of each image, > N0.
        failure_probability: in (0, 1), the same in all certifications of the task.
        on_progress: called with none done first, then after each group of samples.
    """
    _require_samples(selection_samples=selection_samples)
    _require_more(max_samples, selection_samples)
    report = _reporter(collector, max_samples, on_progress)
    report()
    images = range(collector.images)
    collector.sample(SELECTION, images, 0, selection_samples, report)
    selection, estimation = collector.counts[SELECTION], collector.counts[ESTIMATION]
    radius, taken = np.zeros(collector.images), 0
    for look in look_schedule(max_samples - selection_samples, collector.chunk_size).tolist():
        collector.sample(ESTIMATION, images, taken, look, report)
        taken = look
        found = anytime_certificates(selection, estimation, sigma, failure_probability)
        radius = np.maximum(radius, found.radius)
    _warn_of_non_finite(collector.counts)
    candidate = selection[:, :-1].argmax(axis=1)
    certificates = certificates_from_radii(candidate, radius, selection, estimation)
    return _outcome(collector, certificates, "most_samples")


def certified_nearby(outcome: CertificationOutcome, distance: Floats) -> CertificationOutcome:
    """Return the certificates of images that lie at a distance from those that were certified.

    What holds within a radius of an image holds within the radius less the distance of another one;
    where nothing is left of it, that one abstains.

    Args:
        outcome: of B images.
        distance: float64 [B], L2, in [0,1] pixels, >= 0; 0 where it is the same image.
    """
    certified = (distance == 0) | (outcome.radius > distance)
    return replace(
        outcome,
        prediction=np.where(certified, outcome.prediction, ABSTAIN),
        radius=np.where(certified, outcome.radius - distance, 0.0),
    )


def class_counts(collector: CountCollector, samples: int) -> Integers:
    """Sample `samples` >= 1 of each image, int64 [B, K+1], last not finite.

    Warns of images some of whose samples have non-finite logits.
    """
    _require_samples(samples=samples)
    collector.sample(SELECTION, range(collector.images), 0, samples, lambda: None)
    _warn_of_non_finite(collector.counts)
    counts: Integers = collector.counts[SELECTION]
    return counts


def radius_grid(
    radii: tuple[float, ...], step: float, *, sigma: float, samples: int, failure_probability: float
) -> Floats:
    """Return the given radii and the multiples of `step` that `samples` could certify, increasing.

    With all of N samples in one class the Clopper-Pearson bound is failure_probability^(1/N).
    """
    check_sigma(sigma)
    check_failure_probability(failure_probability)
    reachable = sigma * ndtri(failure_probability ** (1 / samples))
    # Multiples as decimals print them, so that 3 * 0.05 is the radius 0.15 that a user asks for.
    multiples = np.arange(int(max(reachable, 0.0) / step) + 1) * step
    return np.unique(np.concatenate([multiples.round(10), radii]))


def _outcome(
    collector: CountCollector, certificates: Certificates, ending: Ending
) -> CertificationOutcome:
    """Return the outcome where images end alike unless their logits are not finite."""
    finite = collector.counts[:, :, -1].sum(axis=0) == 0
    return CertificationOutcome(
        prediction=certificates.prediction,
        radius=certificates.radius,
        selection_counts=collector.counts[SELECTION],
        estimation_counts=collector.counts[ESTIMATION],
        ending=np.where(finite, ending, "not_finite"),
        seconds=collector.seconds,
    )


def _reporter(
    collector: CountCollector, samples: int, on_progress: OnProgress | None
) -> Callable[[], None]:
    """Return what reports the progress where each image is sampled equally often."""

    def report() -> None:
        taken = collector.samples
        if on_progress is not None:
            done, in_all = int((taken == samples).sum()), len(taken) * samples
            on_progress(CertificationProgress(done, len(taken), int(taken.sum()), in_all))

    return report


def _require_samples(**samples: int) -> None:
    for name, value in samples.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, but is {value}.")


def _require_more(max_samples: int, selection_samples: int) -> None:
    if max_samples <= selection_samples:
        raise InputError(
            f"max_samples must exceed selection_samples ({selection_samples}), which it includes, "
            f"but is {max_samples}."
        )


def _reached(succeeded: NDArray[np.bool_]) -> Integers:
    """Return how many radii from the smallest on have succeeded without a gap, int64 [B]."""
    reached: Integers = np.cumprod(succeeded, axis=1, dtype=np.int64).sum(axis=1)
    return reached


def _warn_of_non_finite(counts: Integers) -> None:
    non_finite = counts[:, :, -1].sum(axis=0)
    images = np.flatnonzero(non_finite)
    if len(images):
        named = ", ".join(str(image) for image in images[:_IMAGES_NAMED])
        more = ", ..." if len(images) > _IMAGES_NAMED else ""
        warnings.warn(
            f"{counted(len(images), 'image abstains', 'images abstain')} because of "
            f"{counted(int(non_finite.sum()), 'sample')} with non-finite logits: {named}{more} "
            "(positions in the task).",
            RuntimeWarning,
            stacklevel=3,
        )
