"""Images to train on: on the device while they fit there, else on the host, a step ahead."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

# Of the device's memory that all images together may take; networks and their steps need the rest.
DEVICE_SHARE = 0.25

Item = TypeVar("Item")


def fit_on(device: torch.device, images: Sequence[Tensor]) -> bool:
    """Tell whether images may all lie on a device, which a share of its memory decides."""
    if device.type != "cuda":
        return True
    size = sum(tensor.numel() * tensor.element_size() for tensor in images)
    return size <= DEVICE_SHARE * torch.cuda.get_device_properties(device).total_memory


def rows_of(images: Tensor, *index: Tensor, device: torch.device) -> Tensor:
    """Return some of images, which are on the host or on a device, on the device.

    Args:
        images: [n, …], or [k, n, …] with two tensors of indices.
        index: int64 [B] each, on the host.
    """
    if images.device == device or device.type != "cuda":
        return images[tuple(part.to(images.device) for part in index)]
    # Pinned, so that it is copied while the step before computes.
    return images[index].pin_memory().to(device, non_blocking=True)


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield items, each once the one after it is made."""
    iterator = iter(items)
    for item in iterator:
        for following in iterator:
            yield item
            item = following
        yield item
