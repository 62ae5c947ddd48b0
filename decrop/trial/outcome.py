"""The result of a trial: certificates summed up, accuracy without noise, latency."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from decrop.classifiers.predictions import accuracy
from decrop.data.limited import LabelledImages
from decrop.files import read_json, write_json
from decrop.smoothing.backend import backend_of
from decrop.smoothing.execution import resolve_device, resolve_layout
from decrop.trial.certify import (
    Certification,
    noisy_image_seconds,
    precision_of,
)
from decrop.trial.result import NOISY_IMAGE, TrialResult


def trial_result(
    certification: Certification,
    accuracy: float,
    *,
    hashes: Mapping[str, str],
    seconds: Mapping[str, float],
    flip_rate: float | None = None,
    agreement: float | None = None,
) -> TrialResult:
    """Sum up a certification; on test images the certified function is timed, too.

    Args:
        certification: whose certificates are told.
        accuracy: without noise (`accuracy_without_noise`).
        hashes: content of what the certified function was made from, by role.
        seconds: by stage before the certification.
        flip_rate: of the boundary samples; None where there were none.
        agreement: of a surrogate with what it stands for; None without one.
    """
    config, task = certification.config, certification.task
    channels, height, width = task.images.images.shape[1:]
    taken = {**seconds, "certification": certification.seconds}
    if task.split == "test" and not backend_of(task.network).costs:
        taken[NOISY_IMAGE] = noisy_image_seconds(config, task)
    return TrialResult(
        split=task.split,
        scores=certification.scores,
        clean_accuracy=accuracy,
        flip_rate=flip_rate,
        precision=precision_of(config),
        device=resolve_device(config.execution.device).type,
        chunks_per_batch=int(config.execution.chunks_per_batch),
        hashes={**hashes, "certified_images": task.images.content_hash()},
        seconds={
            name: round(value, 9 if name == NOISY_IMAGE else 3) for name, value in taken.items()
        },
        image_shape=(channels, height, width),
        agreement=agreement,
        layout=resolve_layout(config.execution.layout),
    )


def accuracy_without_noise(
    certification: Certification, path: Path, *, network: nn.Module | None = None
) -> float:
    """Return the accuracy on certified images without noise, asked for only once where it costs.

    Args:
        certification: of the images.
        path: where the accuracy is kept, where each answer may be paid for.
        network: images [B, C, H, W] to logits [B, K]; the certified one if None.
    """
    network = network or certification.task.network
    if not backend_of(network).costs:
        return _accuracy(certification, network)
    if not path.exists():
        write_json(path, {"clean_accuracy": _accuracy(certification, network)})
    return float(read_json(path)["clean_accuracy"])


def _accuracy(certification: Certification, network: nn.Module) -> float:
    images: LabelledImages = certification.task.images
    return accuracy(network, images, resolve_device(certification.config.execution.device))
