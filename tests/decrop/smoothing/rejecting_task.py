"""A sampling task with rejections, and its counts without a sampler."""

from collections.abc import Sequence

import numpy as np
import torch

from decrop.rejection.network import RejectingNetwork
from decrop.seeds import torch_generator
from decrop.smoothing.noise import noise_source
from decrop.smoothing.sampling import CountRequest, SamplingTask
from tests.decrop.rejecting import CLASSES, SHAPE, rejecting_network

CHUNK = 16


def rejecting_task(*, threshold: float = 0.5) -> SamplingTask:
    """Return three random images before a network that rejects about half of their samples."""
    generator = torch_generator(0, "images")
    return SamplingTask(
        network=rejecting_network(threshold=threshold),
        images=torch.rand(3, *SHAPE, generator=generator),
        image_ids=torch.tensor([5, 9, 2]),
        class_count=CLASSES + 1,
        sigma=0.5,
        seed=3,
        chunk_size=CHUNK,
        chunks_per_batch=2,
        precision="fp32",
    )


@torch.no_grad()
def direct_counts(task: SamplingTask, requests: Sequence[CountRequest]) -> np.ndarray:
    """Count sample by sample: denoise, classify, ask the head of the class."""
    network = task.network
    assert isinstance(network, RejectingNetwork)
    counts = np.zeros((len(requests), CLASSES + 2), dtype=np.int64)
    for row, request in enumerate(requests):
        name = int(task.image_ids[request.image]), request.stream, request.chunk
        noise = noise_source(
            task.noise,
            sigma=task.sigma,
            seed=task.seed,
            chunk_size=task.chunk_size,
            device=torch.device("cpu"),
        )
        (noisy,) = noise.noisy(task.images[[request.image]], [name])
        for sample in range(request.samples):
            denoised = network.denoiser(noisy[sample][None])
            logits, maps = network.classifier(denoised)
            predicted = int(logits[0].argmax())
            head = torch.sigmoid(network.rejector(denoised, maps)[0, predicted])
            counts[row, CLASSES if head > network.threshold else predicted] += 1
    return counts
