"""`certify_adaptive`: what it certifies, how often it is wrong, and what it samples."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, norm

from decrop.errors import InputError
from decrop.smoothing import procedures as procedures
from decrop.smoothing.collect import CertificationProgress, CountCollector
from decrop.smoothing.procedures import CertificationOutcome, certify_adaptive, radius_grid
from decrop.smoothing.sampling import ESTIMATION, SELECTION, CountRequest
from decrop.smoothing.sequential import SequentialDesign, look_schedule
from decrop.smoothing.worth import GIVEN_UP
from tests.cases import cases, slow_but
from tests.decrop.smoothing.virtual import VirtualSampler

SIGMA = 0.25
RADII = np.array([0.0, 0.25, 0.5, 0.75])
REPETITIONS = 10_000


def certified(
    probabilities: NDArray[np.float64], *, seed: int = 0, sampler: Any = None, **changes: Any
) -> CertificationOutcome:
    """Certify images whose label is class 0."""
    radii = changes.pop("radii", RADII)
    settings: dict[str, Any] = {
        "sigma": SIGMA,
        "radii": radii,
        "given_up": np.full(len(radii), GIVEN_UP),
        "selection_samples": 50,
        "max_samples": 2_000,
        "failure_probability": 0.05,
        **changes,
    }
    images, chunk_size = len(probabilities), settings.pop("chunk_size", 50)
    settings.setdefault("labels", np.zeros(images, dtype=np.int64))
    collector = CountCollector(
        sampler or VirtualSampler(probabilities, seed),
        images=images,
        class_count=probabilities.shape[1],
        chunk_size=chunk_size,
    )
    return certify_adaptive(collector, **settings)


def classes(top: float, kind: str) -> NDArray[np.float64]:
    """Return the probabilities of two or ten classes, the first of which has `top`."""
    others = {
        "two classes": [1.0],
        "close runner-up": [1.0] + [0.0] * 8,
        "equal runners-up": [1 / 9] * 9,
    }[kind]
    return np.array([top, *((1 - top) * np.array(others))])


def share_wrong(outcome: CertificationOutcome, top: float) -> float:
    """Return the share of certificates that say more than is true."""
    true_radius = SIGMA * norm.ppf(top)
    right_class = (outcome.prediction == 0) & (outcome.radius <= true_radius)
    wrong = (outcome.prediction >= 0) & ~right_class
    if top <= 0.5:
        # No class has a certified radius at all.
        wrong = outcome.prediction >= 0
    return float(wrong.mean())


def allowed(failure_probability: float) -> float:
    """Return what a rule of that failure probability exceeds once in ten thousand times."""
    return float(binom.ppf(0.9999, REPETITIONS, failure_probability)) / REPETITIONS


HARDEST = [
    # Just below what a radius needs.
    *[float(norm.cdf(radius / SIGMA)) * (1 - 1e-9) for radius in RADII],
    # Between the radii, and sure.
    0.6,
    0.9,
    1.0,
]
# Two classifiers of each simulation; the others are slow.
TOPS = slow_but(HARDEST, HARDEST[1])
KINDS = slow_but(
    ["two classes", "equal runners-up", "close runner-up"], "two classes", "equal runners-up"
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top", TOPS)
def test_certificates_are_wrong_no_more_often_than_allowed(top: float, kind: str) -> None:
    outcome = certified(np.tile(classes(top, kind), (REPETITIONS, 1)))
    assert share_wrong(outcome, top) <= allowed(0.05)


@pytest.mark.parametrize("top", TOPS[:3])
def test_sampling_until_it_certifies_is_allowed(
    top: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No image gives up, each stops as soon as it certifies one radius more than is true."""
    everything = lambda *_, other_samples, **__: (  # noqa: E731
        np.ones(len(other_samples), dtype=bool),
        np.zeros(len(other_samples)),
    )
    monkeypatch.setattr(procedures, "worthwhile", everything)
    radii = RADII[: int(np.searchsorted(norm.cdf(RADII / SIGMA), top)) + 1]
    outcome = certified(np.tile(classes(top, "two classes"), (REPETITIONS, 1)), radii=radii)
    wrong = share_wrong(outcome, top)
    assert wrong <= allowed(0.05)
    # It spends most of what it may, so that a rule that were wrong twice as often is caught.
    assert wrong > 0.025


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("top", TOPS)
def test_without_labels_certificates_are_wrong_no_more_often(top: float, kind: str) -> None:
    outcome = certified(np.tile(classes(top, kind), (REPETITIONS, 1)), labels=None)
    assert share_wrong(outcome, top) <= allowed(0.05)


def test_labels_change_nothing_but_when_a_wrong_candidate_stops() -> None:
    generator = np.random.default_rng(5)
    top = generator.uniform(0.3, 1, 400)
    probabilities = np.column_stack([top, 1 - top])
    known = certified(probabilities, sampler=Repeating(probabilities))
    unknown = certified(probabilities, sampler=Repeating(probabilities), labels=None)
    stopped = known.ending == "misclassified"
    assert 20 < stopped.sum() < 380
    assert "misclassified" not in unknown.ending
    for name in ("prediction", "radius", "samples", "ending"):
        same = getattr(known, name) == getattr(unknown, name)
        assert same[~stopped].all(), name
    assert (unknown.samples[stopped] > known.samples[stopped]).all()
    # Sure of the other class, it says so.
    assert (unknown.prediction[stopped & (top < 0.35)] == 1).all()


class Repeating:
    """Gives a chunk of an image the same counts whatever else is asked for."""

    def __init__(self, probabilities: NDArray[np.float64]) -> None:
        self.probabilities = probabilities

    def class_counts(self, requests: Sequence[CountRequest]) -> NDArray[np.int64]:
        rows = []
        for request in requests:
            name = [request.image, request.stream, request.chunk]
            samples = np.random.default_rng(name).multinomial(
                request.samples, self.probabilities[request.image]
            )
            rows.append([*samples, 0])
        return np.array(rows, dtype=np.int64)


def wrong_design(kind: str) -> Any:
    right = procedures.sequential_design

    def design(
        radii: NDArray[np.float64], sigma: float, failure_probability: float, looks: Any
    ) -> SequentialDesign:
        if kind == "level doubled":
            return right(radii, sigma, 3 * failure_probability, looks)
        needed = norm.cdf(radii / sigma)[:, None]
        if kind == "p-hat as bound":
            limits = np.ceil(looks * (1 - needed)).astype(np.int64) - 1
        else:
            each = [right(radii, sigma, failure_probability, looks[[i]]) for i in range(len(looks))]
            limits = np.hstack([one.limits for one in each])
        return SequentialDesign(radii=radii, others=1 - needed[:, 0], looks=looks, limits=limits)

    return design


@pytest.mark.parametrize("kind", ["level doubled", "p-hat as bound", "naive peeking"])
def test_wrong_rules_are_caught(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procedures, "sequential_design", wrong_design(kind))
    top = HARDEST[1]
    outcome = certified(np.tile(classes(top, "two classes"), (REPETITIONS, 1)))
    assert share_wrong(outcome, top) > allowed(0.05)


def test_selection_samples_that_are_used_again_are_caught() -> None:
    """Of two equally likely classes the one that was sampled more seems likelier than it is."""

    class Reusing(VirtualSampler):
        def class_counts(self, requests: Sequence[CountRequest]) -> NDArray[np.int64]:
            counts = super().class_counts(requests)
            for row, request in enumerate(requests):
                if request.stream == SELECTION:
                    selected[request.image] = counts[row]
                elif request.chunk == 0:
                    counts[row] = selected[request.image]
            return counts

    selected: dict[int, NDArray[np.int64]] = {}
    probabilities = np.tile(classes(0.5, "two classes"), (REPETITIONS, 1))
    sure = {"max_samples": 100, "radii": RADII[:1]}
    assert share_wrong(certified(probabilities, **sure), 0.5) <= allowed(0.05)
    reused = certified(probabilities, sampler=Reusing(probabilities, 0), **sure)
    # Half of the images are of the other label, and end.
    assert 2 * share_wrong(reused, 0.5) > allowed(0.05)


def test_no_image_samples_more_than_the_most_and_all_samples_are_counted() -> None:
    generator = np.random.default_rng(0)
    top = generator.uniform(0.3, 1, 500)
    probabilities = np.column_stack([top, 1 - top])
    sampler = VirtualSampler(probabilities, 1)
    outcome = certified(probabilities, sampler=sampler, max_samples=1_337)
    sampled = np.zeros(500, dtype=np.int64)
    for request in sampler.requests:
        sampled[request.image] += request.samples
    assert (sampled == outcome.samples).all()
    assert outcome.samples.max() <= 1_337
    assert outcome.samples.min() >= 50
    assert len({(r.image, r.stream, r.chunk) for r in sampler.requests}) == len(sampler.requests)


def test_endings() -> None:
    probabilities = np.array([[1.0, 0.0], [0.0, 1.0], [0.85, 0.15], [0.5001, 0.4999]])
    outcome = certified(probabilities, radii=RADII[:3], failure_probability=0.001)
    assert outcome.ending[0] == "largest_radius"
    assert (outcome.prediction[0], outcome.radius[0]) == (0, 0.5)
    assert outcome.ending[1] == "misclassified"
    assert (outcome.prediction[1], outcome.radius[1], outcome.samples[1]) == (-1, 0, 50)
    assert outcome.ending[2] in ("out_of_reach", "most_samples")
    assert outcome.prediction[2] == 0
    hopeless = certified(np.tile([[0.35, 0.65]], (200, 1)), labels=np.ones(200, dtype=np.int64))
    assert set(hopeless.ending) <= {"out_of_reach", "misclassified", "largest_radius"}
    assert hopeless.samples.mean() < 500


def test_abstention_is_minus_1_with_radius_0() -> None:
    outcome = certified(np.tile([[0.5, 0.5]], (500, 1)), failure_probability=0.001)
    assert (outcome.prediction == -1).all()
    assert (outcome.radius == 0).all()


def test_radii_are_members_of_the_grid_and_grow_with_the_probability() -> None:
    top = np.linspace(0.5, 1, 200)
    outcome = certified(np.column_stack([top, 1 - top]), max_samples=8_000)
    assert set(outcome.radius) <= set(RADII)
    assert outcome.radius[-1] == 0.75
    # Within noise.
    means = [outcome.radius[start : start + 40].mean() for start in range(0, 200, 40)]
    assert means == sorted(means)


def test_neither_order_nor_the_tests_of_other_images_change_an_image() -> None:
    class Fixed:
        """Gives each chunk of an image counts of its own."""

        def __init__(self, images: list[int], sure: bool) -> None:
            self.images = images
            self.sure = sure

        def class_counts(self, requests: Sequence[CountRequest]) -> NDArray[np.int64]:
            rows = []
            for request in requests:
                image = self.images[request.image]
                generator = np.random.default_rng([image, request.stream, request.chunk])
                sure = self.sure and image % 2 == 1 and request.stream == ESTIMATION
                chance = 1.0 if sure else 0.5 + image / 60
                others = int((generator.random(request.samples) > chance).sum())
                rows.append([request.samples - others, others, 0])
            return np.array(rows, dtype=np.int64)

    def outcome(images: list[int], sure: bool = False) -> list[tuple[Any, ...]]:
        probabilities = np.full((len(images), 2), 0.5)
        result = certified(probabilities, sampler=Fixed(images, sure))
        return list(
            zip(
                result.prediction,
                result.radius,
                result.samples,
                result.ending,
                strict=True,
            )
        )

    together = outcome(list(range(30)))
    assert outcome(list(range(29, -1, -1))) == together[::-1]
    others_sure = outcome(list(range(30)), sure=True)
    assert others_sure[::2] == together[::2]
    assert others_sure[1::2] != together[1::2]


class NotFinite(VirtualSampler):
    """The logits of image 0 are not finite in one selection sample, of image 1 in a later one."""

    def class_counts(self, requests: Sequence[CountRequest]) -> NDArray[np.int64]:
        counts = super().class_counts(requests)
        for row, request in enumerate(requests):
            if (request.image, request.stream, request.chunk) in (
                (0, SELECTION, 0),
                (1, ESTIMATION, 2),
            ):
                counts[row] = 0
                counts[row, 0], counts[row, -1] = request.samples - 1, 1
        return counts


def test_images_with_non_finite_samples_abstain_and_are_named() -> None:
    probabilities = np.tile([[1.0, 0.0]], (3, 1))
    with pytest.warns(RuntimeWarning, match=r"2 images abstain because of 2 samples .*: 0, 1 "):
        outcome = certified(probabilities, sampler=NotFinite(probabilities, 0))
    assert outcome.prediction.tolist() == [-1, -1, 0]
    assert outcome.radius[:2].tolist() == [0, 0]
    assert outcome.ending.tolist()[:2] == ["not_finite", "not_finite"]
    assert outcome.samples[0] == 50
    assert outcome.samples[1] == 200


def test_as_accurate_as_many_more_samples() -> None:
    """No less than fixed samples would give them, from a fraction of the samples."""
    generator = np.random.default_rng(0)
    top = norm.cdf(generator.uniform(-0.2, 0.9, 4_000) / SIGMA)
    probabilities = np.column_stack([top, 1 - top])
    outcome = certified(probabilities, max_samples=20_000, failure_probability=0.001)
    others = np.random.default_rng(1).binomial(10_000, 1 - top)
    for radius in RADII:
        design = procedures.sequential_design(np.array([radius]), SIGMA, 0.001, np.array([10_000]))
        fixed = (others <= design.limits[0, 0]).mean()
        adaptive = ((outcome.prediction == 0) & (outcome.radius >= radius)).mean()
        assert adaptive > fixed - 0.015
    assert outcome.samples.mean() < 10_100 / 3


def test_progress_grows_and_ends_with_all_images() -> None:
    seen: list[CertificationProgress] = []
    top = np.linspace(0.4, 1, 60)
    outcome = certified(np.column_stack([top, 1 - top]), on_progress=seen.append)
    assert (seen[0].images_done, seen[0].samples) == (0, 0)
    assert seen[0].samples_expected > 0
    assert (seen[-1].images_done, seen[-1].images) == (60, 60)
    assert seen[-1].samples == seen[-1].samples_expected == outcome.samples.sum()
    for before, after in itertools.pairwise(seen):
        assert after.images_done >= before.images_done
        assert after.samples >= before.samples
        assert after.samples_expected >= after.samples


@cases(
    ("changes", "message"),
    [
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": float("nan")}, "sigma"),
        ({"failure_probability": 0.0}, "failure_probability"),
        ({"failure_probability": 1.0}, "failure_probability"),
        ({"selection_samples": 0}, "selection_samples"),
        ({"max_samples": 50}, "max_samples must exceed"),
        ({"radii": np.array([0.5, 0.25])}, "radii"),
        ({"chunk_size": 0}, "chunk_size"),
    ],
)
def test_bad_values_are_named_before_anything_is_sampled(
    changes: dict[str, Any], message: str
) -> None:
    sampler = VirtualSampler(np.array([[1.0, 0.0]]), 0)
    with pytest.raises(InputError, match=message):
        certified(np.array([[1.0, 0.0]]), sampler=sampler, **changes)
    assert not sampler.requests


def test_the_grid_has_what_is_asked_for_and_what_can_be_reached() -> None:
    grid = radius_grid(
        (0.0, 0.12, 0.25, 3.0), 0.05, sigma=SIGMA, samples=100, failure_probability=0.001
    )
    # 100 samples of one class bound it by 0.001^(1/100) = 0.933.
    assert SIGMA * norm.ppf(0.001 ** (1 / 100)) == pytest.approx(0.375, abs=0.001)
    assert grid.tolist() == [0.0, 0.05, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.35, 3.0]
    few = radius_grid((0.0, 0.5), 0.05, sigma=SIGMA, samples=1, failure_probability=0.001)
    assert few.tolist() == [0.0, 0.5]


def test_rounds_end_at_the_looks() -> None:
    sampler = VirtualSampler(np.array([[1.0, 0.0]]), 0)
    certified(np.array([[1.0, 0.0]]), sampler=sampler, max_samples=375, radii=np.array([0.0, 9.0]))
    stops = np.cumsum([r.samples for r in sampler.requests if r.stream == ESTIMATION])
    assert set(stops) <= set(look_schedule(325, 50).tolist())
