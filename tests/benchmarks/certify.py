"""Certification measured: samples a second, samples an image, and what is certified with them.

    python -m tests.benchmarks.certify --quick --json
    python -m tests.benchmarks.certify --dataset-path CIFAR10 --classifier RESNET20.safetensors \
        --denoiser DNCNN17.safetensors

A reference does it the plain way: one image at a time, fp32, N fixed. Beside it, in the same run,
the engine with `fixed` and with `adaptive`, on a DnCNN of 17 layers and a ResNet-20. Without files
the images and weights are random, which changes no time. Ratios of samples come from replaying the
certified accuracies of published results (`tests.benchmarks.profiles`).
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.stats import norm
from statsmodels.stats.proportion import proportion_confint
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from decrop.classifiers.classifier import Classifier
from decrop.config import DatasetSettings
from decrop.data.datasets import load_dataset
from decrop.data.limited import evenly_spaced
from decrop.evaluation.accuracy import certified_accuracy
from decrop.networks.dncnn import DnCNN
from decrop.networks.resnet import CifarResNet
from decrop.seeds import derive_key
from decrop.smoothing.certificates import cohen_certificates
from decrop.smoothing.collect import CountCollector
from decrop.smoothing.execution import resolve_device, resolve_precision
from decrop.smoothing.noise import ChunkName, GridNoise, as_pixels, key_words, philox
from decrop.smoothing.probe import probe_chunks_per_batch
from decrop.smoothing.procedures import CertificationOutcome, certify_adaptive, certify_fixed
from decrop.smoothing.sampling import (
    ESTIMATION,
    CountRequest,
    LocalSampler,
    SamplingTask,
    full_batches,
    places,
)
from decrop.smoothing.worth import GIVEN_UP
from tests.benchmarks.profiles import PROFILES, RADII, SIGMA, Profile, virtual_images
from tests.decrop.smoothing.virtual import VirtualSampler

FAILURE_PROBABILITY = 0.001
SELECTION_SAMPLES = 100
CHUNK_SIZE = 50
# Of the scripts that go with Cohen et al. 2019; and that with which they are fastest here.
REFERENCE_BATCH, FAST_REFERENCE_BATCH = 1_000, 100
VIRTUAL_IMAGES = 20_000
# The most samples of an image with which `adaptive` is compared with a fixed N.
CAPS = {100_000: 180_000, 10_000: 20_000}
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


def reference(
    network: nn.Module, image: Tensor, samples: int, class_count: int, batch_size: int
) -> NDArray[np.int64]:
    """Count classes of noisy copies of one float image, as scripts of the field do."""
    counts = np.zeros(class_count, dtype=np.int64)
    with torch.no_grad():
        for start in range(0, samples, batch_size):
            batch = image.repeat((min(batch_size, samples - start), 1, 1, 1))
            predictions = network(batch + torch.randn_like(batch) * SIGMA).argmax(1)
            for prediction in predictions.cpu().numpy():
                counts[prediction] += 1
    return counts


def certify_reference(
    network: nn.Module, images: Tensor, samples: int, class_count: int, batch_size: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Certify images uint8 [B, C, H, W] one by one (Cohen et al. 2019); return class and radius."""
    classes, radii = [], []
    for image in images:
        pixels = image.float() / 255
        top = int(reference(network, pixels, SELECTION_SAMPLES, class_count, batch_size).argmax())
        count = reference(network, pixels, samples, class_count, batch_size)[top]
        bound = proportion_confint(count, samples, 2 * FAILURE_PROBABILITY, method="beta")[0]
        certified = bound > 0.5
        classes.append(top if certified else -1)
        radii.append(SIGMA * norm.ppf(bound) if certified else 0.0)
    return np.array(classes), np.array(radii)


def convolution_rate(device: torch.device, dtype: torch.dtype, batch: int, seconds: float) -> float:
    """Return floating point operations a second of a bare stack of 64-channel convolutions."""
    layers = [nn.Conv2d(64, 64, 3, padding=1) for _ in range(8)]
    stack = nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU(inplace=True))])
    stack.to(device=device, dtype=dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(batch, 64, 32, 32, device=device, dtype=dtype)
    images = images.to(memory_format=torch.channels_last)

    def run() -> None:
        with torch.inference_mode():
            stack(images)
        if device.type == "cuda":
            torch.cuda.synchronize()

    run()
    started, runs = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        run()
        runs += 1
    operations = 2 * 64 * 64 * 9 * 32 * 32 * len(layers)
    return runs * batch * operations / (time.perf_counter() - started)


def operations_an_image(network: nn.Module) -> float:
    """Count floating point operations of one forward pass of one image."""
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 32, 32))
    return float(counter.get_total_flops())


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of some work and the seconds it took."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


class RowCountingSampler(LocalSampler):
    """A sampler that counts the rows it computes, those of empty slots included."""

    rows = 0

    def _batch_counts(self, batch: list[CountRequest | None]) -> Tensor:
        self.rows += len(batch) * CHUNK_SIZE
        return super()._batch_counts(batch)


def adaptive(
    sampler: Any, labels: NDArray[np.int64], max_samples: int, *, chunks_per_batch: int = 1
) -> CertificationOutcome:
    """Certify at the radii asked for with as few samples as do."""
    return certify_adaptive(
        CountCollector(
            sampler,
            images=len(labels),
            class_count=10,
            chunk_size=CHUNK_SIZE,
            chunks_per_batch=chunks_per_batch,
        ),
        labels=labels,
        sigma=SIGMA,
        radii=RADII,
        given_up=np.full(len(RADII), GIVEN_UP),
        selection_samples=SELECTION_SAMPLES,
        max_samples=max_samples,
        failure_probability=FAILURE_PROBABILITY,
    )


def fixed(
    sampler: Any, images: int, samples: int, chunk_size: int, *, chunks_per_batch: int = 1
) -> CertificationOutcome:
    """Certify with equally many samples each."""
    return certify_fixed(
        CountCollector(
            sampler,
            images=images,
            class_count=10,
            chunk_size=chunk_size,
            chunks_per_batch=chunks_per_batch,
        ),
        partial(cohen_certificates, sigma=SIGMA, failure_probability=FAILURE_PROBABILITY),
        selection_samples=SELECTION_SAMPLES,
        estimation_samples=samples,
    )


def replay(profile: Profile, samples: int, seed: int) -> dict[str, Any]:
    """Compare `adaptive` with `fixed` N = `samples` on virtual images."""
    probabilities, labels = virtual_images(profile, VIRTUAL_IMAGES, seed)
    plain = fixed(VirtualSampler(probabilities, seed + 1), len(labels), samples, samples)
    few = adaptive(VirtualSampler(probabilities, seed + 2), labels, CAPS[samples])
    accuracies = [
        certified_accuracy(outcome.prediction, outcome.radius, labels, RADII)
        for outcome in (plain, few)
    ]
    return {
        "profile": profile.name,
        "samples": samples,
        "cap": CAPS[samples],
        "sample_ratio": float(plain.samples.sum() / few.samples.sum()),
        "samples_an_image": float(few.samples.mean()),
        "fixed": accuracies[0].tolist(),
        "adaptive": accuracies[1].tolist(),
        "gap_points": (100 * (accuracies[0] - accuracies[1])).tolist(),
    }


def shard_speedup(task: SamplingTask, chunks: int, rounds: int) -> float:
    """Return how much faster two processes of one thread each count than one."""
    # Only here, for the rest of the benchmark needs no Ray.
    from tests.tune.sharding import Watched
    from tune.cluster import Claim, cluster

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    requests = [
        CountRequest(
            number % len(task.images), ESTIMATION, number // len(task.images), CHUNK_SIZE, *place
        )
        for number, place in enumerate(places(chunks, task.chunks_per_batch))
    ]
    try:
        own = LocalSampler(task, cpu)
        few = requests[: 4 * task.chunks_per_batch]
        own.class_counts(few)
        with cluster(None):
            shards = Watched(task, cpu, helper=Claim(cpu=1, gpu=0), max_helpers=1)
            # The helper first imports PyTorch.
            while not shards.leases_by_helpers:
                shards.class_counts(few)
            # In turns, for what else a machine does changes by the minute.
            speedups = []
            for _ in range(rounds):
                alone, alone_seconds = timed(lambda: own.class_counts(requests))
                shared, shared_seconds = timed(lambda: shards.class_counts(requests))
                speedups.append(alone_seconds / shared_seconds)
                if not np.array_equal(alone, shared):
                    raise AssertionError("two processes gave other counts than one")
    finally:
        torch.set_num_threads(threads)
    return float(np.median(speedups))


class SameBitsGaussian(GridNoise):
    """Gaussian noise in fp32 from the very bits whose noise on the grid is compared with it."""

    def noisy(self, images: Tensor, names: Sequence[ChunkName]) -> Tensor:
        """Return float32 [P, S, C, H, W] of images [P, C, H, W], one chunk of noise each."""
        count = self._chunk_size * images[0].numel()
        keys = [derive_key(self._seed, "grid noise", *name) for name in names]
        bits = (philox(key_words(keys, self._device), count) >> 1) & (2**63 - 1)
        noise = SIGMA * torch.special.ndtri((bits.double() + 0.5) / 2**63).float()
        shape = (len(names), self._chunk_size, *images.shape[1:])
        return noise.view(shape) + as_pixels(images)[:, None]


def grid_costs(
    task: SamplingTask, labels: NDArray[np.int64], on: torch.device, *, samples: int, rounds: int
) -> tuple[float, float]:
    """Return what noise on the grid costs beside floating-point noise.

    That is the share of time that it adds, behind the same network, and the points of certified
    accuracy between both, from the same random bits, so that nothing but the rounding differs.
    """
    grid, gaussian = (
        LocalSampler(replace(task, noise=noise), on)  # type: ignore[arg-type]
        for noise in ("grid", "gaussian")
    )
    requests = full_batches(task, 2 * (torch.get_num_threads() if on.type == "cpu" else 8))
    ratios = []
    for _ in range(rounds + 1):
        # In turns, for what else a machine does changes by the minute.
        seconds = [
            timed(partial(sampler.class_counts, requests))[1] for sampler in (grid, gaussian)
        ]
        ratios.append(seconds[0] / seconds[1])
    same_bits = LocalSampler(task, on)
    same_bits._noisy._noise = SameBitsGaussian(task.sigma, task.seed, CHUNK_SIZE, on)
    accuracies = []
    for sampler in (grid, same_bits):
        outcome = fixed(
            sampler,
            len(labels),
            samples,
            CHUNK_SIZE,
            chunks_per_batch=task.chunks_per_batch,
        )
        accuracies.append(certified_accuracy(outcome.prediction, outcome.radius, labels, RADII))
    gap = 100 * np.abs(accuracies[0] - accuracies[1]).max()
    # The first round warms up.
    return float(np.median(ratios[1:])) - 1, float(gap)


def load_problem(
    dataset_path: Path | None, classifier: Path | None, denoiser: Path | None, images: int
) -> tuple[nn.Module, Tensor, Tensor, str]:
    """Return network, images uint8, labels, and what they are."""
    torch.manual_seed(0)
    resnet = CifarResNet(blocks=3, image_channels=3, class_count=10)
    dncnn = DnCNN(image_channels=3, depth=17, channels=64)
    if classifier is not None:
        resnet.load_state_dict(load_file(classifier))
    if denoiser is not None:
        dncnn.load_state_dict(load_file(denoiser))
    standardised = Classifier(
        resnet, mean=CIFAR10_MEAN, std=CIFAR10_STD, class_count=10, architecture="cifar_resnet20"
    )
    network = nn.Sequential(dncnn, standardised).eval()
    if dataset_path is None:
        pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8)
        return network, pixels, torch.zeros(images, dtype=torch.int64), "random images"
    dataset = load_dataset(DatasetSettings(name="cifar10", path=str(dataset_path)))
    chosen = evenly_spaced(dataset.test, images)
    return network, chosen.images, chosen.labels, "CIFAR-10 test images"


def main(
    dataset_path: Annotated[Path | None, typer.Option(help="Folder of CIFAR-10.")] = None,
    classifier: Annotated[Path | None, typer.Option(help="Weights of the ResNet-20.")] = None,
    denoiser: Annotated[Path | None, typer.Option(help="Weights of the DnCNN.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    images: Annotated[int, typer.Option(help="Images that the engine certifies.")] = 100,
    samples: Annotated[int, typer.Option(help="N of the fixed procedure.")] = 1_000,
    quick: Annotated[bool, typer.Option("--quick", help="A few images, N = 400.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure throughput, sample savings and certified accuracy in one run."""
    on = resolve_device(device)  # type: ignore[arg-type]
    precision = resolve_precision("auto", on)
    if quick:
        images, samples = (4, 1_000) if on.type == "cpu" else (50, 2_000)
    network, pixels, labels, data = load_problem(dataset_path, classifier, denoiser, images)
    operations = operations_an_image(network)
    task = SamplingTask(
        network=network,
        images=pixels,
        image_ids=torch.arange(images),
        class_count=10,
        sigma=SIGMA,
        seed=0,
        chunk_size=CHUNK_SIZE,
        chunks_per_batch=1,
        precision=precision,
    )
    chunks_per_batch = probe_chunks_per_batch(task, on)
    task = SamplingTask(**{**vars(task), "chunks_per_batch": chunks_per_batch})
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    seconds = 5.0 if quick else 15.0
    rate = convolution_rate(on, dtype, CHUNK_SIZE * chunks_per_batch, seconds)

    # As many images for the reference as take about as long.
    plain_images = max(1, images // 4)
    plain_network, plain_pixels = network.to(on), pixels[:plain_images].to(on)
    certify_reference(plain_network, plain_pixels[:1], 100, 10, FAST_REFERENCE_BATCH)
    plain_rates = {}
    for batch_size in (FAST_REFERENCE_BATCH, REFERENCE_BATCH):
        (plain_class, plain_radius), plain_seconds = timed(
            partial(certify_reference, plain_network, plain_pixels, samples, 10, batch_size)
        )
        plain_rates[batch_size] = plain_images * (SELECTION_SAMPLES + samples) / plain_seconds

    sampler = RowCountingSampler(task, on)
    sampler.class_counts(full_batches(task, torch.get_num_threads()))
    in_batches = {"chunks_per_batch": chunks_per_batch}
    outcome, fixed_seconds = timed(
        partial(fixed, sampler, images, samples, CHUNK_SIZE, **in_batches)
    )
    fixed_rate = float(outcome.samples.sum() / fixed_seconds)
    cap = CAPS[10_000] * samples // 10_000
    sampler.rows = 0
    few, few_seconds = timed(partial(adaptive, sampler, labels.numpy(), cap, **in_batches))

    def accuracy(prediction: NDArray[np.int64], radius: NDArray[np.float64]) -> list[float]:
        known = labels.numpy()[: len(prediction)]
        values: list[float] = certified_accuracy(prediction, radius, known, RADII).tolist()
        return values

    replays = [
        replay(profile, n, seed)
        for seed, (n, profile) in enumerate((n, p) for n in CAPS for p in PROFILES)
    ]
    ratios = {r["samples"]: r["sample_ratio"] for r in reversed(replays)}
    # Two processes on one device would only show how the device is shared.
    slowdown, gap = grid_costs(
        task, labels.numpy(), on, samples=100 if quick else samples, rounds=5 if quick else 15
    )
    speedup = shard_speedup(task, *((72, 1) if quick else (192, 5))) if on.type == "cpu" else None
    document = {
        "device": torch.cuda.get_device_name() if on.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "precision": precision,
        "data": data,
        "chunk_size": CHUNK_SIZE,
        "chunks_per_batch": chunks_per_batch,
        "throughput_ratio_fixed": fixed_rate / plain_rates[REFERENCE_BATCH],
        "throughput_ratio_fixed_fastest_reference": fixed_rate / plain_rates[FAST_REFERENCE_BATCH],
        "fraction_of_conv_rate": fixed_rate * operations / rate,
        "useful_rows_fraction_adaptive": float(few.samples.sum() / sampler.rows),
        "sample_ratio_vs_100000": ratios[100_000],
        "sample_ratio_vs_10000": ratios[10_000],
        "certified_accuracy_gap_points": max(max(r["gap_points"]) for r in replays),
        "grid_slowdown": slowdown,
        "grid_accuracy_gap_points": gap,
        "shard_speedup_2": speedup,
        "conv_gflops_a_second": rate / 1e9,
        "runs": {
            "reference": {
                "images": plain_images,
                "samples_a_second": plain_rates[REFERENCE_BATCH],
                "samples_an_image": SELECTION_SAMPLES + samples,
                "images_a_second": plain_images / plain_seconds,
                "seconds": plain_seconds,
                "certified_accuracy": accuracy(plain_class, plain_radius),
            },
            "fixed": {
                "images": images,
                "samples_a_second": fixed_rate,
                "samples_an_image": SELECTION_SAMPLES + samples,
                "seconds": fixed_seconds,
                "certified_accuracy": accuracy(outcome.prediction, outcome.radius),
            },
            "adaptive": {
                "images": images,
                "samples_a_second": float(few.samples.sum() / few_seconds),
                "samples_an_image": float(few.samples.mean()),
                "images_a_second": images / few_seconds,
                "seconds": few_seconds,
                "certified_accuracy": accuracy(few.prediction, few.radius),
            },
        },
        "replays": replays,
    }
    print(json.dumps(document) if as_json else json.dumps(document, indent=2))


if __name__ == "__main__":
    typer.run(main)
