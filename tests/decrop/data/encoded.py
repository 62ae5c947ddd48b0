"""Small images and their encoded bytes."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def random_pixels(count: int, *, channels: int = 3, seed: int = 0) -> Pixels:
    """Return images [count, 4, 5, channels], or [count, 4, 5] for one channel."""
    shape = (count, 4, 5) if channels == 1 else (count, 4, 5, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(pixels: NDArray[np.generic], mode: str | None = None) -> bytes:
    """Encode an image losslessly, converted to one of Pillow's modes if given."""
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    (image if mode is None else image.convert(mode)).save(file, "PNG")
    return file.getvalue()
