import copy
import dataclasses
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom, chisquare, norm
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from decrop.errors import InputError
from decrop.networks.small_cnn import SmallCNN
from decrop.seeds import torch_generator
from decrop.smoothing.collect import CountCollector
from decrop.smoothing.execution import Precision
from decrop.smoothing.noise import GridNoise, Noise
from decrop.smoothing.sampling import (
    ESTIMATION,
    SELECTION,
    CountRequest,
    LocalSampler,
    SamplingTask,
    places,
)
from tests.cases import cases
from tests.decrop.smoothing.grid_noise import reference_steps

# Odd, so that rows of different chunks are aligned differently in memory.
CHUNK = 13
CPU = torch.device("cpu")
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
IMAGES = torch.randint(
    0, 256, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
IMAGE_IDS = torch.tensor([3, 40, 41, 77, 100, 203])
# Of each batch that `CountingRows` has seen.
ROWS: list[int] = []


class LastBits(nn.Module):
    """A convolutional network whose class is a function of all last bits of its features.

    Any difference in any last bit shows in the counts. The widths are ones at which fp32 matrix
    kernels round differently in different rows of a batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 9, 3, padding=1, bias=False),
            nn.BatchNorm2d(9),
            nn.ReLU(inplace=True),
            nn.Conv2d(9, 37, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(37, 37),
            nn.ReLU(inplace=True),
            nn.Linear(37, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        bits = self.network(images).float().view(torch.int32)
        return F.one_hot(bits.long().sum(dim=1) % 7, 7).float()


class FirstPixelBins(nn.Module):
    """The class is the bin of an image's first pixel between given edges."""

    def __init__(self, edges: Tensor) -> None:
        super().__init__()
        self.edges: Tensor
        self.register_buffer("edges", edges)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images[:, 0, 0, 0].contiguous()
        return F.one_hot(torch.bucketize(pixels, self.edges), len(self.edges) + 1).float()


class CountingRows(nn.Module):
    """Always class 0; the rows of all copies are counted together."""

    def forward(self, images: Tensor) -> Tensor:
        ROWS.append(len(images))
        return F.one_hot(torch.zeros(len(images), dtype=torch.int64), 2).float()


class SometimesNotFinite(nn.Module):
    """Two classes; NaN where the first pixel is below 0.3, infinite where it is above 0.8."""

    def forward(self, images: Tensor) -> Tensor:
        pixels = images[:, 0, 0, 0]
        first = torch.where(pixels < 0.3, torch.nan, pixels)
        second = torch.where(pixels > 0.8, -torch.inf, torch.zeros_like(pixels))
        return torch.stack([first, second], dim=1)


def task(network: nn.Module, class_count: int, **changes: Any) -> SamplingTask:
    settings: dict[str, Any] = {
        "images": IMAGES,
        "image_ids": IMAGE_IDS,
        "sigma": 0.25,
        "seed": 0,
        "chunk_size": CHUNK,
        "chunks_per_batch": 3,
        "precision": "fp32",
    }
    return SamplingTask(network=network, class_count=class_count, **settings | changes)


def last_bits_task(**changes: Any) -> SamplingTask:
    torch.manual_seed(0)
    network = LastBits()
    network(torch.randn(64, 1, 8, 8))
    return task(network, 7, **changes)


def all_requests(images: int = 6, *, chunks_per_batch: int = 3) -> list[CountRequest]:
    place = places(8 * images, chunks_per_batch)
    return [
        CountRequest(image, stream, chunk, samples, *next(place))
        for image in range(images)
        for stream in (SELECTION, ESTIMATION)
        for chunk, samples in enumerate((CHUNK, CHUNK, CHUNK, 5))
    ]


@pytest.fixture
def restored_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("chunks_per_batch", [1, 3, 8])
@pytest.mark.parametrize("device", DEVICES)
def test_counts_do_not_depend_on_how_the_work_is_cut(
    restored_threads: None, device: str, chunks_per_batch: int, precision: Precision
) -> None:
    sampler = LocalSampler(
        last_bits_task(chunks_per_batch=chunks_per_batch, precision=precision), torch.device(device)
    )
    requests = all_requests(chunks_per_batch=chunks_per_batch)
    together = sampler.class_counts(requests)
    alone = np.concatenate([sampler.class_counts([request]) for request in requests])
    assert np.array_equal(alone, together)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        order = np.random.default_rng(threads).permutation(len(requests))
        for part in np.array_split(order, threads):
            assert np.array_equal(
                sampler.class_counts([requests[row] for row in part]), together[part]
            )
        assert torch.get_num_threads() == threads
        with ThreadPoolExecutor(1) as new_thread:
            assert new_thread.submit(torch.get_num_threads).result() == threads


def test_noise_of_an_image_does_not_depend_on_its_selection() -> None:
    sampling = task(FirstPixelBins(torch.linspace(-1, 2, 400)), 401)
    everything = LocalSampler(sampling, CPU).class_counts(all_requests())
    part = [4, 1]
    some = dataclasses.replace(sampling, images=IMAGES[part], image_ids=IMAGE_IDS[part])
    assert np.array_equal(
        LocalSampler(some, CPU).class_counts(all_requests(2)),
        np.concatenate(np.split(everything, 6)[4:5] + np.split(everything, 6)[1:2]),
    )


@pytest.mark.parametrize("chunks_per_batch", [1, 3, 4, 64, 1024])
def test_places_fill_all_slots_of_batches_of_few_sizes(chunks_per_batch: int) -> None:
    for requests in range(0, 3 * chunks_per_batch, max(1, chunks_per_batch // 7)):
        found = list(places(requests, chunks_per_batch))
        assert len(found) == requests
        sizes = [slots for slots, slot in found if slot == 0]
        assert found == [(slots, slot) for slots in sizes for slot in range(slots)]
        assert sizes == sorted(sizes, reverse=True)
        assert all(size == chunks_per_batch or size.bit_count() == 1 for size in sizes)
        assert all(2 * size <= sum(sizes[number:]) + 1 for number, size in enumerate(sizes))
        assert len(sizes) <= requests // chunks_per_batch + 2 * chunks_per_batch.bit_length()


@pytest.mark.parametrize("chunks_per_batch", [4, 64, 1024])
def test_no_row_is_computed_in_vain(chunks_per_batch: int) -> None:
    sampling = task(CountingRows(), 2, chunks_per_batch=chunks_per_batch, chunk_size=2)
    collector = CountCollector.of(sampling, LocalSampler(sampling, CPU))
    ROWS.clear()
    for start, stop, images in ((0, 2, range(6)), (2, 20, range(6)), (20, 60, [1, 4])):
        collector.sample(ESTIMATION, images, start, stop, lambda: None)
    assert sum(ROWS) == collector.counts.sum() == 200


def test_a_pickled_task_gives_the_same_counts() -> None:
    original = last_bits_task()
    copied = pickle.loads(pickle.dumps(original))
    assert np.array_equal(
        LocalSampler(copied, CPU).class_counts(all_requests()),
        LocalSampler(original, CPU).class_counts(all_requests()),
    )


def small_cnn() -> nn.Module:
    torch.manual_seed(0)
    network = SmallCNN(image_channels=1, class_count=10)
    network(torch.rand(64, 1, 8, 8))
    return network.eval()


@cases(
    ("network", "class_count", "precision", "noise"),
    [
        (small_cnn(), 10, "fp32", "grid"),
        (small_cnn(), 10, "fp32", "gaussian"),
        (small_cnn(), 10, "fp16", "grid"),
        (FirstPixelBins(torch.linspace(-1, 2, 400)), 401, "fp32", "grid"),
        (FirstPixelBins(torch.linspace(-1, 2, 400)), 401, "bf16", "grid"),
    ],
)
def test_counts_are_those_of_the_network_on_the_named_noise(
    network: nn.Module, class_count: int, precision: Precision, noise: Noise
) -> None:
    requests = all_requests()
    sampling = task(network, class_count, seed=5, precision=precision, noise=noise)
    counts = LocalSampler(sampling, CPU).class_counts(requests)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    reference = copy.deepcopy(network).to(dtype)
    for request, counted in zip(requests, counts, strict=True):
        name = int(IMAGE_IDS[request.image]), request.stream, request.chunk
        image = IMAGES[request.image]
        if noise == "grid":
            steps = reference_steps(5, name, (CHUNK, 1, 8, 8), sigma=0.25)
            noisy = torch.from_numpy(steps + image.numpy()).clamp(-510, 765).float() / 255
        else:
            generator = torch_generator(5, "certification noise", *name)
            noisy = image / 255 + 0.25 * torch.randn(CHUNK, 1, 8, 8, generator=generator)
        with torch.inference_mode():
            classes = reference(noisy.to(dtype)).argmax(dim=1)
        expected = torch.bincount(classes[: request.samples], minlength=class_count + 1)
        assert counted.tolist() == expected.tolist()


def test_every_stream_chunk_image_and_seed_has_its_own_noise() -> None:
    same_image = IMAGES[:1].expand(6, -1, -1, -1)
    network = FirstPixelBins(torch.linspace(-1, 2, 400))
    requests = [
        CountRequest(image, stream, chunk, CHUNK)
        for image in range(6)
        for stream in (SELECTION, ESTIMATION)
        for chunk in range(4)
    ]
    rows = [
        row.tobytes()
        for seed in (0, 1)
        for row in LocalSampler(task(network, 401, images=same_image, seed=seed), CPU).class_counts(
            requests
        )
    ]
    assert len(set(rows)) == len(rows) == 96


def test_noise_is_gaussian_of_the_given_deviation_around_the_image() -> None:
    deciles = torch.from_numpy(norm.ppf(np.arange(1, 10) / 10))
    edges = (IMAGES[2, 0, 0, 0] / 255 + 0.5 * deciles).float()
    sampler = LocalSampler(task(FirstPixelBins(edges), 10, sigma=0.5, chunk_size=250), CPU)
    requests = [CountRequest(2, ESTIMATION, chunk, 250) for chunk in range(80)]
    counts = sampler.class_counts(requests).sum(axis=0)
    assert counts.sum() == 20_000
    assert chisquare(counts[:-1]).pvalue > 1e-3


def test_samples_with_non_finite_logits_are_counted_apart() -> None:
    images = torch.full((1, 1, 8, 8), 128, dtype=torch.uint8)
    sampler = LocalSampler(
        task(SometimesNotFinite(), 2, images=images, image_ids=torch.tensor([0])), CPU
    )
    requests = [CountRequest(0, ESTIMATION, chunk, CHUNK) for chunk in range(300)]
    counts = sampler.class_counts(requests).sum(axis=0)
    probability = norm.cdf(0.3, 128 / 255, 0.25) + norm.sf(0.8, 128 / 255, 0.25)
    assert counts.tolist() == [counts[0], 0, 3900 - counts[0]]
    assert binom.ppf(0.001, 3900, probability) <= counts[2] <= binom.ppf(0.999, 3900, probability)


def test_the_networks_owner_sees_no_change() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(SmallCNN(image_channels=1, class_count=10), nn.Dropout(0.9)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    sampler = LocalSampler(task(network, 10, precision="bf16"), CPU)
    first = sampler.class_counts(all_requests())
    assert np.array_equal(sampler.class_counts(all_requests()), first)
    assert all(module.training for module in network.modules())
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.parametrize("noise", ["grid", "gaussian"])
def test_floats_are_the_same_images_and_rounded_on_the_grid_alone(noise: Noise) -> None:
    requests = all_requests()
    counts = LocalSampler(last_bits_task(noise=noise), CPU).class_counts(requests)
    floats = last_bits_task(images=IMAGES.float() / 255, noise=noise)
    assert (LocalSampler(floats, CPU).class_counts(requests) == counts).all()
    between = last_bits_task(images=(IMAGES.float() + 0.3).clamp(0, 255) / 255, noise=noise)
    same = (LocalSampler(between, CPU).class_counts(requests) == counts).all()
    assert same == (noise == "grid")


class Operations(TorchDispatchMode):
    """Counts the operations of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, given: Any = (), named: Any = None
    ) -> Any:
        self.count += 1
        return function(*given, **(named or {}))


def test_a_batch_on_a_device_takes_few_operations_and_waits_for_none() -> None:
    # Tensors of this device have no values: what reads one, as a mask does, raises.
    nowhere = torch.device("meta")
    sampler = LocalSampler(task(small_cnn(), 10), nowhere)
    batch = [CountRequest(image, ESTIMATION, 0, CHUNK, 3, image) for image in range(2)]
    assert sampler._batch_counts([*batch, None]).shape == (3, 11)
    # The kernel, which is not on this machine, is one operation.
    noise = sampler._noisy._noise
    assert isinstance(noise, GridNoise)
    noise._passed = lambda keys, limits, count: torch.empty(
        (len(keys), count), dtype=torch.int32, device=nowhere
    )
    with Operations() as operations:
        sampler._batch_counts([*batch, None])
    with Operations() as of_network, torch.inference_mode():
        sampler._noisy._network(torch.empty((3 * CHUNK, 1, 8, 8), device=nowhere))
    assert operations.count - of_network.count <= 45


def test_no_requests_give_no_counts() -> None:
    assert LocalSampler(last_bits_task(), CPU).class_counts([]).shape == (0, 8)


@pytest.mark.parametrize(("slots", "slot"), [(4, 0), (2, 2), (0, 0), (3, -1)])
def test_a_request_for_no_slot_is_refused(slots: int, slot: int) -> None:
    with pytest.raises(InputError, match=f"at most 3 slots .* not slot {slot} of {slots}"):
        LocalSampler(last_bits_task(), CPU).class_counts(
            [CountRequest(0, SELECTION, 0, CHUNK, slots, slot)]
        )


@pytest.mark.parametrize("samples", [0, CHUNK + 1])
def test_a_request_for_no_samples_or_more_than_a_chunk_is_refused(samples: int) -> None:
    with pytest.raises(InputError, match=f"1 to {CHUNK} samples .* not {samples}"):
        LocalSampler(last_bits_task(), CPU).class_counts([CountRequest(0, SELECTION, 0, samples)])


def test_a_network_of_other_classes_is_refused() -> None:
    sampler = LocalSampler(task(SmallCNN(image_channels=1, class_count=9), 10), CPU)
    with pytest.raises(InputError, match=r"\[13, 9\]"):
        sampler.class_counts([CountRequest(0, SELECTION, 0, CHUNK)])


def test_a_network_that_normalises_by_the_batch_is_refused() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2, track_running_stats=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    with pytest.raises(InputError, match="1 normalises by the batch"):
        LocalSampler(task(network, 2), CPU)


@cases(
    ("changes", "message"),
    [
        ({"sigma": 0.0}, "sigma"),
        ({"images": IMAGES.float()}, r"float32 in \[0,1\]"),
        ({"images": IMAGES.double() / 255}, r"float32 in \[0,1\]"),
        ({"images": IMAGES.float() * torch.nan}, r"float32 in \[0,1\]"),
        ({"images": IMAGES[0]}, "uint8"),
        ({"image_ids": IMAGE_IDS[:5]}, "image_ids"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"chunks_per_batch": 0}, "chunks_per_batch"),
        ({"class_count": 0}, "class_count"),
    ],
)
def test_bad_tasks_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(last_bits_task(), **changes)
