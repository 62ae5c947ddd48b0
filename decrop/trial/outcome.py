"""The result of a trial: certificates summed up, accuracy without noise, latency."""

from collections.abc import Mapping

from torch import nn

from decrop.classifiers.predictions import accuracy
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
    *,
    hashes: Mapping[str, str],
    seconds: Mapping[str, float],
    flip_rate: float | None = None,
    agreement: float | None = None,
    classified: nn.Module | None = None,
) -> TrialResult:
    """Sum up a certification; on test images the certified function is timed, too.

    Args:
        certification: whose certificates are told.
        hashes: content of what the certified function was made from, by role.
        seconds: by stage before the certification.
        flip_rate: of the boundary samples; None where there were none.
        agreement: of a surrogate with what it stands for; None without one.
        classified: whose accuracy without noise is told; the certified function if None.
    """
    config, task = certification.config, certification.task
    device = resolve_device(config.execution.device)
    channels, height, width = task.images.images.shape[1:]
    taken = {**seconds, "certification": certification.seconds}
    if task.split == "test" and not backend_of(task.network).costs:
        taken[NOISY_IMAGE] = noisy_image_seconds(config, task)
    return TrialResult(
        split=task.split,
        scores=certification.scores,
        clean_accuracy=accuracy(classified or task.network, task.images, device),
        flip_rate=flip_rate,
        precision=precision_of(config),
        device=device.type,
        chunks_per_batch=int(config.execution.chunks_per_batch),
        hashes={**hashes, "certified_images": task.images.content_hash()},
        seconds={
            name: round(value, 9 if name == NOISY_IMAGE else 3) for name, value in taken.items()
        },
        image_shape=(channels, height, width),
        agreement=agreement,
        layout=resolve_layout(config.execution.layout),
    )
