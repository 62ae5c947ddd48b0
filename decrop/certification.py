"""Certificates of images under a trial's settings."""

from collections.abc import Callable

import torch
from torch import nn

from decrop.config import TrialConfig
from decrop.data.limited import LabelledImages
from decrop.evaluation.table import CertificateTable
from decrop.result import Split
from decrop.seeds import derive_seed
from decrop.smoothing.certify import certify
from decrop.smoothing.execution import Precision, resolve_device, resolve_precision
from decrop.smoothing.sampling import LocalSampler, Sampler, SamplingTask

MakeSampler = Callable[[SamplingTask], Sampler]


def local_sampler(config: TrialConfig) -> MakeSampler:
    """Return the maker of samplers that draw in this process, on the configured device."""
    device = resolve_device(config.execution.device)
    return lambda task: LocalSampler(task, device)


def certificate_table(
    config: TrialConfig,
    network: nn.Module,
    images: LabelledImages,
    *,
    split: Split,
    class_count: int,
    estimation_samples: int,
    make_sampler: MakeSampler,
    on_certified: Callable[[int, int], None] | None = None,
) -> CertificateTable:
    """Certify images by CERTIFY (Cohen et al. 2019, section 3.2.2), one row each.

    The noise depends on the trial's seed, the split, the image's position in it and the draw alone,
    so equal settings give equal certificates and different denoisers see the same noise.
    """
    device = resolve_device(config.execution.device)
    settings, execution = config.certification, config.execution
    task = SamplingTask(
        network=network,
        images=images.images,
        image_ids=images.indices,
        class_count=class_count,
        sigma=config.sigma,
        seed=derive_seed(config.seed, "certification", split),
        chunk_size=execution.chunk_size,
        chunks_per_batch=execution.chunks_per_batch,
        precision=resolve_precision(execution.precision, device),
    )
    outcome = certify(
        make_sampler(task),
        len(images),
        class_count=class_count,
        sigma=config.sigma,
        selection_samples=settings.selection_samples,
        estimation_samples=estimation_samples,
        failure_probability=settings.failure_probability,
        chunk_size=execution.chunk_size,
        on_progress=on_certified,
    )
    return CertificateTable(
        idx=images.indices.numpy(),
        label=images.labels.numpy(),
        predict=outcome.prediction,
        radius=outcome.radius,
        seconds=outcome.seconds,
    )


def precision_of(config: TrialConfig) -> Precision:
    """Return the precision in which this machine certifies under `config`."""
    device = resolve_device(config.execution.device)
    return resolve_precision(config.execution.precision, device)


def clean_accuracy(network: nn.Module, images: LabelledImages, device: torch.device) -> float:
    """Return the accuracy of a network on images without noise."""
    network = network.to(device).eval()
    with torch.inference_mode():
        predictions = torch.cat(
            [
                network(batch.to(device).float() / 255).argmax(1).cpu()
                for batch in images.images.split(500)
            ]
        )
    return (predictions == images.labels).float().mean().item()
