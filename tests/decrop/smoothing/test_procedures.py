from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor, nn

from decrop.errors import InputError
from decrop.smoothing.certificates import Certificates, Integers, cohen_certificates
from decrop.smoothing.collect import CertificationProgress, CountCollector
from decrop.smoothing.procedures import (
    CertificateRule,
    CertificationOutcome,
    certify_anytime,
    certify_fixed,
)
from decrop.smoothing.sampling import SELECTION, CountRequest, LocalSampler, Sampler, SamplingTask

SIGMA = 0.25
CERTIFY = partial(cohen_certificates, sigma=SIGMA, failure_probability=0.001)
SETTINGS = {"selection_samples": 100, "estimation_samples": 1_000}


def fixed(
    sampler: Sampler, images: int, rule: CertificateRule, *, chunk_size: int = 30, **settings: Any
) -> CertificationOutcome:
    collector = CountCollector(sampler, images=images, class_count=2, chunk_size=chunk_size)
    return certify_fixed(collector, rule, **settings)


class Linear(nn.Module):
    """Two logits whose difference is linear in the pixels."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(torch.tensor(bias))

    def forward(self, images: Tensor) -> Tensor:
        margin = images.flatten(1) @ self.weight + self.bias
        return torch.stack([-margin / 2, margin / 2], dim=1)


class RecordingSampler:
    """Sends samples of image i to class i % 2, and of chosen images to the non-finite column."""

    def __init__(self, non_finite_images: Sequence[int] = ()) -> None:
        self.groups: list[list[CountRequest]] = []
        self.non_finite_images = non_finite_images

    def class_counts(self, requests: Sequence[CountRequest]) -> NDArray[np.int64]:
        self.groups.append(list(requests))
        counts = np.zeros((len(requests), 3), dtype=np.int64)
        for row, request in enumerate(requests):
            not_finite = int(request.image in self.non_finite_images and request.chunk == 1)
            counts[row, request.image % 2] = request.samples - not_finite
            counts[row, 2] = not_finite
        return counts


def linear_problem() -> tuple[Linear, Tensor, NDArray[np.float64]]:
    """Return a classifier, 40 images and their signed exact distances from its boundary."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8, generator=generator)
    weight = torch.randn(16, generator=generator)
    network = Linear(weight, -0.5 * float(weight.sum()))
    pixels = images.flatten(1).double().numpy() / 255
    margins = pixels @ weight.double().numpy() + network.bias.item()
    return network, images, margins / float(weight.double().norm())


def linear_task(network: nn.Module, images: torch.Tensor) -> SamplingTask:
    return SamplingTask(
        network=network,
        images=images,
        image_ids=torch.arange(40),
        class_count=2,
        sigma=SIGMA,
        seed=0,
        chunk_size=30,
        chunks_per_batch=4,
        precision="fp32",
    )


def certify_linear(**changes: Any) -> tuple[CertificationOutcome, NDArray[np.float64]]:
    network, images, distances = linear_problem()
    settings = SETTINGS | changes
    sampler = LocalSampler(linear_task(network, images), torch.device("cpu"))
    return fixed(sampler, 40, CERTIFY, **settings), distances


def test_radii_of_a_linear_classifier_are_below_the_exact_ones_and_near_them() -> None:
    outcome, distances = certify_linear()
    exact = np.abs(distances)
    assert np.all(outcome.radius <= exact)
    certified = outcome.prediction >= 0
    assert np.array_equal(outcome.prediction[certified], (distances > 0)[certified])
    # The largest radius that 1,000 samples of one class give, and what sampling error leaves of it.
    reach = SIGMA * norm.ppf(0.001 ** (1 / 1_000))
    far = exact > 0.5 * SIGMA
    assert far.sum() >= 15
    assert np.all(outcome.radius[far] > 0.65 * np.minimum(exact, reach)[far])
    assert outcome.radius[far].mean() > 0.8 * np.minimum(exact, reach)[far].mean()


def test_the_outcome_is_that_of_its_counts() -> None:
    outcome, _ = certify_linear()
    assert np.all(outcome.selection_counts.sum(axis=1) == 100)
    assert np.all(outcome.estimation_counts.sum(axis=1) == 1_000)
    assert outcome.samples.tolist() == [1_100] * 40
    assert outcome.ending.tolist() == ["complete"] * 40
    expected = cohen_certificates(outcome.selection_counts, outcome.estimation_counts, SIGMA, 0.001)
    assert np.array_equal(outcome.prediction, expected.prediction)
    assert np.array_equal(outcome.radius, expected.radius)
    assert np.all(outcome.seconds > 0)


@pytest.mark.slow
def test_anytime_radii_grow_and_stay_below_the_exact_ones() -> None:
    network, images, distances = linear_problem()
    task = linear_task(network, images)
    sampler = LocalSampler(task, torch.device("cpu"))
    radius = np.zeros(40)
    for max_samples in (130, 160, 400, 1_500):
        outcome = certify_anytime(
            CountCollector.of(task, sampler),
            sigma=SIGMA,
            selection_samples=100,
            max_samples=max_samples,
            failure_probability=0.001,
        )
        assert outcome.samples.tolist() == [max_samples] * 40
        assert np.all(outcome.radius <= np.abs(distances))
        certified = outcome.prediction >= 0
        assert np.array_equal(outcome.prediction[certified], (distances > 0)[certified])
        assert outcome.radius.sum() > radius.sum()
        radius = outcome.radius
    # Of what a fixed number of as many samples gives it costs a fifth.
    fixed, _ = certify_linear(estimation_samples=1_400)
    assert radius.sum() > 0.8 * fixed.radius.sum()


def test_another_rule_gets_both_streams_of_all_images() -> None:
    given: list[tuple[Integers, Integers]] = []

    def rule(selection_counts: Integers, estimation_counts: Integers) -> Certificates:
        given.append((selection_counts, estimation_counts))
        return Certificates(prediction=np.array([1, -1, 0]), radius=np.array([0.5, 0.0, 0.25]))

    outcome = fixed(RecordingSampler(), 3, rule, **SETTINGS)
    assert outcome.prediction.tolist() == [1, -1, 0]
    assert outcome.radius.tolist() == [0.5, 0.0, 0.25]
    ((selection, estimation),) = given
    assert selection.tolist() == [[100, 0, 0], [0, 100, 0], [100, 0, 0]]
    assert estimation.tolist() == [[1_000, 0, 0], [0, 1_000, 0], [1_000, 0, 0]]


def test_each_image_gets_its_samples_once_in_bounded_groups() -> None:
    sampler = RecordingSampler()
    progress: list[CertificationProgress] = []
    outcome = fixed(sampler, 50, CERTIFY, **SETTINGS, on_progress=progress.append)
    assert outcome.prediction.tolist() == [0, 1] * 25
    requests = [request for group in sampler.groups for request in group]
    assert len({(request.image, request.stream, request.chunk) for request in requests}) == len(
        requests
    )
    assert all(1 <= request.samples <= 30 for request in requests)
    selection = [request.samples for request in requests if request.stream == SELECTION]
    assert sum(selection) == 50 * 100
    # However fast a sampler seems, groups begin small.
    assert all(len(group) <= 64 * 2**number for number, group in enumerate(sampler.groups))
    assert {(report.images, report.samples_expected) for report in progress} == {(50, 50 * 1_100)}
    samples = [report.samples for report in progress]
    assert samples[0] == 0
    assert samples[-1] == 50 * 1_100
    assert samples == sorted(set(samples))
    assert len(samples) == len(sampler.groups) + 1
    done = [report.images_done for report in progress]
    assert done[0] == 0
    assert done[-1] == 50
    assert done == sorted(done)
    # An image is done with its last sample, not before.
    assert all(1_100 * report.images_done <= report.samples for report in progress)


def test_images_with_non_finite_samples_are_named_and_abstain() -> None:
    with pytest.warns(RuntimeWarning, match=r"^2 images abstain because of 4 .* logits: 1, 3 "):
        outcome = fixed(RecordingSampler(non_finite_images=(1, 3)), 5, CERTIFY, **SETTINGS)
    assert outcome.prediction.tolist() == [0, -1, 0, -1, 0]
    assert outcome.radius[[1, 3]].tolist() == [0, 0]
    assert outcome.ending.tolist() == ["complete", "not_finite"] * 2 + ["complete"]


def test_the_warning_names_only_the_first_images() -> None:
    with pytest.warns(RuntimeWarning, match=r": 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\. "):
        fixed(RecordingSampler(non_finite_images=range(20)), 20, CERTIFY, **SETTINGS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selection_samples": 0}, "selection_samples"),
        ({"estimation_samples": 0}, "estimation_samples"),
        ({"chunk_size": 0}, "chunk_size"),
    ],
)
def test_bad_settings_are_refused_before_sampling(changes: dict[str, Any], message: str) -> None:
    sampler = RecordingSampler()
    with pytest.raises(InputError, match=message):
        fixed(sampler, 5, CERTIFY, **SETTINGS | changes)
    assert not sampler.groups
