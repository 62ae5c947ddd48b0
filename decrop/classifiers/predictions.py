"""Predictions of a network on many images, in batches."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from decrop.data.limited import LabelledImages

_BATCH = 500


@torch.inference_mode()
def predicted_classes(
    network: nn.Module,
    images: Tensor,
    device: torch.device,
    *,
    perturb: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the class that a network predicts of each image, int64 [n] on the CPU.

    Args:
        network: images [B, C, H, W] in [0,1] pixels to logits [B, K]; left on the device in eval
            mode.
        images: uint8 [n, C, H, W].
        perturb: applied to each batch on the device, such as noise; nothing if None.
    """
    network = network.to(device).eval()
    classes = [torch.empty(0, dtype=torch.int64)]
    for part in images.split(_BATCH):
        pixels = part.to(device).float() / 255
        logits = network(pixels if perturb is None else perturb(pixels))
        classes.append(logits.argmax(1).cpu())
    return torch.cat(classes)


def accuracy(network: nn.Module, images: LabelledImages, device: torch.device) -> float:
    """Return the accuracy of a network on images without noise (see `predicted_classes`)."""
    right = predicted_classes(network, images.images, device) == images.labels
    return right.float().mean().item()
