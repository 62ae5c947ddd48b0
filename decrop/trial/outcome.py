"""What a trial has come to: certificates summed up, accuracy without noise, latency."""

import torch
from torch import nn

from decrop.black_box.sampler import endpoint_of
from decrop.classifiers.storage import AnyClassifier
from decrop.config import TrialConfig
from decrop.data.limited import LabelledImages
from decrop.files import read_json, write_json
from decrop.smoothing.execution import resolve_device, resolve_layout
from decrop.trial.certify import (
    clean_accuracy,
    noisy_image_seconds,
    precision_of,
)
from decrop.trial.folder import TrialFolder
from decrop.trial.inputs import TrialInputs
from decrop.trial.result import NOISY_IMAGE, Scores, Split, TrialResult


def trial_result(
    config: TrialConfig,
    inputs: TrialInputs,
    classifier: AnyClassifier,
    split: Split,
    scores: Scores,
    images: LabelledImages,
    *,
    clean_accuracy: float,
    flip_rate: float | None,
    seconds: dict[str, float],
) -> TrialResult:
    """Sum up a certification.

    Args:
        config: the trial's settings; chunks_per_batch is the number that was used.
        inputs: of the trial.
        classifier: that was certified, or was trained for it.
        split: whose images were certified.
        scores: of the certificates.
        images: that were certified, uint8 [B, C, H, W].
        clean_accuracy: of the certified network without noise.
        flip_rate: of the boundary samples; None where there were none.
        seconds: by stage.
    """
    channels, height, width = images.images.shape[1:]
    return TrialResult(
        split=split,
        scores=scores,
        clean_accuracy=clean_accuracy,
        flip_rate=flip_rate,
        precision=precision_of(config),
        device=resolve_device(config.execution.device).type,
        chunks_per_batch=int(config.execution.chunks_per_batch),
        hashes={
            **inputs.hashes(),
            "classifier": classifier.content_hash(),
            "certified_images": images.content_hash(),
        },
        seconds={
            name: round(value, 9 if name == NOISY_IMAGE else 3) for name, value in seconds.items()
        },
        image_shape=(channels, height, width),
        agreement=inputs.agreement,
        layout=resolve_layout(config.execution.layout),
    )


def accuracy_without_noise(
    inputs: TrialInputs,
    network: nn.Module,
    images: LabelledImages,
    device: torch.device,
    folder: TrialFolder,
) -> float:
    """Return the accuracy of a network on images without noise, asking a black box only once.

    Args:
        inputs: of the trial, which say whether the network asks a black box.
        network: images [B, C, H, W] to logits [B, K].
        images: with labels.
        device: to compute on.
        folder: where a black box's accuracy is kept.
    """
    if inputs.target is None:
        return clean_accuracy(network, images, device)
    # Kept, for a black box may be paid for each answer.
    path = folder.clean_accuracy_path
    if not path.exists():
        write_json(path, {"clean_accuracy": clean_accuracy(network, images, device)})
    return float(read_json(path)["clean_accuracy"])


def latency(
    config: TrialConfig, network: nn.Module, images: LabelledImages, class_count: int
) -> dict[str, float]:
    """Return how long the certified function takes for an image with noise, for `seconds`.

    Empty where the network asks an endpoint, which may be paid for each answer.

    Args:
        config: the trial's settings; chunks_per_batch is a number.
        network: noisy images [B, C, H, W] to logits [B, K].
        images: of which the first is drawn.
        class_count: K.
    """
    if endpoint_of(network) is not None:
        return {}
    return {NOISY_IMAGE: noisy_image_seconds(config, network, images, class_count=class_count)}
