"""Counts behind an endpoint are those of the network there, and no sample is asked for in vain."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from decrop.black_box import (
    EndpointClassifier,
    EndpointError,
    QueryBudgetError,
    endpoint_classifier,
)
from decrop.black_box import sampler as asking
from decrop.black_box.sampler import EndpointBackend, QueryPlan
from decrop.config import ClassifierSettings
from decrop.errors import InputError
from decrop.networks.denoised import DenoisedClassifier
from decrop.seeds import seeded_globals
from decrop.smoothing.backend import backend_of
from decrop.smoothing.journal import RecordedSampler
from decrop.smoothing.sampling import (
    ESTIMATION,
    SELECTION,
    CountRequest,
    LocalSampler,
    Sampler,
    SamplingTask,
)
from tests.decrop.black_box.server import (
    Endpoint,
    Reply,
    labels_of,
    logits_of,
    serving,
)
from tests.decrop.tiny import CLASSES, CPU, SIZE, random_images, tiny_classifier, tiny_dataset

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK = tiny_classifier()
IMAGES = random_images(5, size=SIZE)
DATA = tiny_dataset(torch.arange(5) % CLASSES, class_count=CLASSES, images=IMAGES)
CHUNK = 4
# Of chunk 3 only one sample, and none at all of most slots of the batches.
REQUESTS = [
    CountRequest(image, stream, chunk, samples)
    for image in range(5)
    for stream, chunk, samples in (
        (SELECTION, 0, CHUNK),
        (ESTIMATION, 1, CHUNK),
        (ESTIMATION, 3, 1),
    )
]
DRAWS = sum(request.samples for request in REQUESTS)


def denoiser() -> nn.Module:
    with seeded_globals(0, "denoiser"):
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))


def behind(denoiser: nn.Module, classifier: nn.Module, *, mirrored: bool = False) -> nn.Module:
    return DenoisedClassifier(denoiser, classifier, mirrored=mirrored)


def opened(endpoint: Endpoint, ledger: Path | None = None, **given: Any) -> EndpointClassifier:
    settings = {"retries": 0, "batch_size": 2 * CHUNK, **given}
    source = ClassifierSettings.model_validate({"source": endpoint.url, "endpoint": settings})
    return endpoint_classifier(source, DATA, ledger)


def task(network: nn.Module, **changes: Any) -> SamplingTask:
    given: dict[str, Any] = {
        "network": network,
        "images": IMAGES,
        "image_ids": torch.arange(5) * 7,
        "class_count": CLASSES,
        "sigma": 0.2,
        "seed": 3,
        "chunk_size": CHUNK,
        "chunks_per_batch": 3,
        "precision": "fp32",
    }
    return SamplingTask(**given | changes)


def local(network: nn.Module, **changes: Any) -> NDArray[np.int64]:
    return LocalSampler(task(network, **changes), CPU).class_counts(REQUESTS)


def asked(
    network: nn.Module, requests: Sequence[CountRequest] = REQUESTS, **changes: Any
) -> NDArray[np.int64]:
    return sampler_of(task(network, **changes)).class_counts(requests)


def sampler_of(sampling: SamplingTask) -> Sampler:
    return backend_of(sampling.network).sampler(sampling, CPU)


@pytest.mark.parametrize("answer", [labels_of(NETWORK), logits_of(NETWORK)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_counts_are_those_of_the_network_behind(answer: Any, precision: str) -> None:
    """Noise and denoised images are the same, bit for bit; so is the class of nearly all."""
    before = denoiser().eval()
    with serving(answer) as endpoint:
        counts = asked(behind(before, opened(endpoint)), precision=precision)
        assert endpoint.images == 1 + DRAWS
    # The classifier at the endpoint computes in fp32.
    denoising = before if precision == "fp32" else InPrecision(before)
    expected = local(behind(denoising, NETWORK))
    assert np.array_equal(counts, expected)
    assert (counts[:, :-1] > 0).any(axis=0).sum() > 1


class InPrecision(nn.Module):
    """A denoiser in bf16 whose images go on in fp32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._rounded = [network.to(torch.bfloat16)]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        given = images.to(torch.bfloat16, memory_format=torch.channels_last)
        denoised: torch.Tensor = self._rounded[0](given)
        return denoised.float()


def test_without_a_denoiser_images_are_sent_in_fp32() -> None:
    with serving(labels_of(NETWORK)) as endpoint:
        classifier = opened(endpoint)
        counts = asked(classifier, precision="bf16")
    assert np.array_equal(counts, local(NETWORK))


def test_chunks_go_whole_and_requests_are_full() -> None:
    with serving(labels_of(NETWORK), seconds=0.02) as endpoint:
        asked(opened(endpoint, concurrency=3))
    sizes = sorted(endpoint.asked[1:])
    assert sum(sizes) == DRAWS and sizes[-1] == 2 * CHUNK
    # Chunks of 4, 4 and 1 samples, two in a request whatever the batches are.
    assert len(sizes) == -(-len(REQUESTS) // 2)
    assert 1 < endpoint.most_at_once <= 3


def test_where_an_endpoint_is_found() -> None:
    with serving() as endpoint:
        classifier = opened(endpoint)
    for asked in (classifier, behind(nn.Identity(), classifier)):
        assert isinstance(backend_of(asked), EndpointBackend)
    for computed in (behind(classifier, nn.Identity()), NETWORK):
        assert not backend_of(computed).costs


def test_an_endpoint_is_not_asked_in_place_of_what_averages_two_answers() -> None:
    with serving() as endpoint, pytest.raises(InputError, match=r"denoiser\.mirrored averages"):
        asked(behind(nn.Identity(), opened(endpoint), mirrored=True))
    assert endpoint.asked == [1]


def test_what_a_denoiser_must_not_give_is_not_asked() -> None:
    class Nan(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images * torch.nan

    with serving() as endpoint, pytest.raises(InputError, match="not finite numbers"):
        asked(behind(Nan(), opened(endpoint)))
    assert endpoint.asked == [1]


# Kept as they come


def recorded(path: Path, network: nn.Module) -> RecordedSampler:
    sampling = task(network)
    return RecordedSampler(sampler_of(sampling), path, sampling, CPU)


def test_answers_before_a_failure_are_kept_and_not_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    with serving(labels_of(NETWORK)) as endpoint:
        classifier = opened(endpoint, concurrency=1)

        def break_the_next(number: int) -> None:
            if number == 4:
                endpoint.faults.append(Reply(b"broken", 500))

        endpoint.before_answer = break_the_next
        with recorded(path, classifier) as sampler, pytest.raises(EndpointError) as error:
            sampler.class_counts(REQUESTS)
        assert "answers with status 500" in str(error.value)
        assert f"What was answered is kept in {path}" in str(error.value)
        answered, before = endpoint.answered.copy(), endpoint.images
        with recorded(path, classifier) as sampler:
            assert sampler.samples == sum(answered.values()) - 1 > 0
            counts = sampler.class_counts(REQUESTS)
    assert np.array_equal(counts, local(NETWORK))
    assert endpoint.images - before == DRAWS - (sum(answered.values()) - 1)
    assert set(endpoint.answered.values()) == {1}


def test_what_is_under_way_when_one_fails_is_kept(tmp_path: Path) -> None:
    """The first of two requests fails while the other, which has come already, is answered."""
    both = threading.Event()

    def together(number: int) -> None:
        if number == 1:
            both.wait(5)
        elif number == 2:
            both.set()

    with serving(labels_of(NETWORK), seconds=0.1, before_answer=together) as endpoint:
        classifier = opened(endpoint, concurrency=2)
        endpoint.faults.append(Reply(b"", 400))
        with recorded(tmp_path / "counts", classifier) as sampler:
            with pytest.raises(EndpointError, match="status 400"):
                sampler.class_counts(REQUESTS)
            assert sampler.samples == sum(endpoint.answered.values()) - 1 > 0
        assert classifier.client.ledger.spent().asked == endpoint.images


def test_what_is_under_way_at_ctrl_c_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = asking._first_completed
    interrupts = [KeyboardInterrupt()]

    def interrupted(futures: Any) -> Any:
        if endpoint.images > 1 and interrupts:
            raise interrupts.pop()
        return waits(futures)

    monkeypatch.setattr(asking, "_first_completed", interrupted)
    with serving(labels_of(NETWORK), seconds=0.1) as endpoint:
        classifier = opened(endpoint, concurrency=2)
        with recorded(tmp_path / "counts", classifier) as sampler:
            with pytest.raises(KeyboardInterrupt):
                sampler.class_counts(REQUESTS)
            assert DRAWS > sampler.samples == sum(endpoint.answered.values()) - 1 > 0
        assert classifier.client.ledger.spent().asked == endpoint.images


def test_a_spent_budget_stops_with_everything_kept(tmp_path: Path) -> None:
    path, ledger = tmp_path / "counts", tmp_path / "queries"
    with serving(labels_of(NETWORK)) as endpoint:
        classifier = opened(endpoint, ledger, query_budget=20)
        with recorded(path, classifier) as sampler, pytest.raises(QueryBudgetError) as error:
            sampler.class_counts(REQUESTS)
        assert "of 20 images are spent" in str(error.value) and "kept in" in str(error.value)
        asked_before = endpoint.images
        assert asked_before <= 20
        assert json.loads(ledger.read_text())["asked"] == asked_before
        larger = classifier.asked_as(
            classifier.client.settings.model_copy(update={"query_budget": 1 + DRAWS}), ledger
        )
        with recorded(path, larger) as sampler:
            counts = sampler.class_counts(REQUESTS)
    assert np.array_equal(counts, local(NETWORK))
    assert endpoint.images == 1 + DRAWS


def test_counts_of_another_endpoint_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    with serving(labels_of(NETWORK)) as endpoint, serving(labels_of(NETWORK)) as other:
        for classifier, kept in (
            (opened(endpoint), 0),
            (opened(endpoint, concurrency=1, timeout_seconds=9), DRAWS),
            (opened(endpoint, pixels="uint8"), 0),
            (opened(other, pixels="uint8"), 0),
        ):
            with recorded(path, classifier) as sampler:
                assert sampler.samples == kept
                sampler.class_counts(REQUESTS)


# What is said before


@pytest.mark.parametrize(
    ("left", "exact", "said"),
    [
        (None, False, "asks U for at most 1,500 images (20 are answered already); there is no"),
        (2000, True, "asks U for 1,500 images (20 are answered already); 2,000 are left"),
        (100, False, "100 are left of the budget, so it may stop before its end"),
    ],
)
def test_a_plan_is_a_sentence(left: int | None, exact: bool, said: str) -> None:
    plan = QueryPlan(url="U", most=1500, kept=20, left=left, exact=exact)
    assert said in str(plan)
    plan.check()


def test_what_cannot_be_kept_is_refused() -> None:
    plan = QueryPlan(url="U", most=1500, kept=0, left=1499, exact=True)
    with pytest.raises(InputError, match=r"1,500 images are to be asked of U, but 1,499 are left"):
        plan.check()
