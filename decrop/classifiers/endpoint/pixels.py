"""What is done to images before they are sent."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from decrop.config.endpoint import Pixels, Scale


def as_sent(images: Tensor, *, pixels: Pixels, scale: Scale) -> NDArray[Any]:
    """Return images as numbers of the range that the endpoint takes; part of what is certified.

    Args:
        images: float32 [B, C, H, W] in [0,1] pixels, plus noise.
        pixels: `float` leaves them; `clipped` clamps them to [0,1]; `uint8` rounds them to 8 bits
            too, halves to even.
        scale: that a white pixel is sent as.

    Returns:
        float32 [B, C, H, W], or uint8 where 8 bits are sent as 0 to 255.
    """
    found: NDArray[np.float32] = images.numpy()
    if pixels == "float":
        return found * np.float32(scale)
    clipped = found.clip(0, 1)
    if pixels == "clipped":
        return clipped * np.float32(scale)
    rounded = (clipped * np.float32(255)).round().astype(np.uint8)
    return rounded if scale == 255 else rounded / np.float32(255)
