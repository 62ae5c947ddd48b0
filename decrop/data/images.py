"""Images of one split, decoded only when asked for."""

import io
import warnings
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from decrop.errors import InputError

Shape = tuple[int, int, int]

# What Pillow calls images of one channel of at most 8 bits, and those of one with more.
_GREY_MODES = ("1", "L", "LA", "La")
_DEEP_MODES = ("I", "F")
# Others that Pillow knows start programs (EPS) or are no images of pixels.
_FORMATS = ("PNG", "JPEG", "PPM", "BMP", "GIF", "TIFF", "WEBP")
_MOST_PIXELS = 1 << 24


class ImageSource(Protocol):
    """One split of a dataset."""

    @property
    def labels(self) -> Tensor:
        """Class indices, int64 [N]."""
        ...

    @property
    def shape(self) -> Shape:
        """Channels (1 or 3), height and width of every image."""
        ...

    def images(self, indices: Tensor) -> Tensor:
        """Return the images at `indices`, uint8 [n, C, H, W]."""
        ...


class InMemoryImages:
    """Images that are already decoded: uint8 [N, C, H, W] with labels int64 [N]."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self._images = images
        self.labels = labels

    @property
    def shape(self) -> Shape:
        """Channels, height and width of every image."""
        channels, height, width = self._images.shape[1:]
        return channels, height, width

    def images(self, indices: Tensor) -> Tensor:
        """Return the images at `indices`, uint8 [n, C, H, W]."""
        return self._images[indices]


class EncodedFiles(Protocol):
    """Encoded images (PNG, JPEG and so on) by position."""

    def read(self, positions: Sequence[int]) -> Iterable[bytes]:
        """Return the encoded images at `positions`, in that order."""
        ...

    def name(self, position: int) -> str:
        """Return what to call an image in a message."""
        ...


class EncodedImages:
    """Encoded images of one shape with labels int64 [N].

    Grey images have 1 channel, all others become RGB; alpha is dropped.

    Args:
        files: the encoded images.
        labels: their classes.
        shape: what every image must have; that of the first one if not given.
    """

    def __init__(self, files: EncodedFiles, labels: Tensor, shape: Shape | None = None) -> None:
        self._files = files
        self._expected_shape = shape
        self.labels = labels

    @cached_property
    def shape(self) -> Shape:
        """Channels, height and width of every image."""
        if self._expected_shape is not None:
            return self._expected_shape
        (encoded,) = self._files.read([0])
        channels, height, width = _decoded(encoded, self._files.name(0)).shape
        return channels, height, width

    def images(self, indices: Tensor) -> Tensor:
        """Return the images at `indices`, uint8 [n, C, H, W]."""
        positions = indices.tolist()
        images = np.empty((len(positions), *self.shape), np.uint8)
        encoded = self._files.read(positions)
        for row, (position, content) in enumerate(zip(positions, encoded, strict=True)):
            name = self._files.name(position)
            image = _decoded(content, name)
            if image.shape != self.shape:
                raise InputError(
                    f"dataset.path: {name} has the shape {_show(image.shape)}, but the first "
                    f"training image {_show(self.shape)} (channels x height x width); "
                    "resize or convert the images to one shape."
                )
            images[row] = image
        return torch.from_numpy(images)


def _decoded(encoded: bytes, name: str) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            # Of large images, before they are refused, and of tags that are broken.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(encoded), formats=_FORMATS)
            small = image.width * image.height <= _MOST_PIXELS
            grey = image.mode in _GREY_MODES
            pixels = np.asarray(image.convert("L" if grey else "RGB")) if small else None
    # What Pillow raises for broken files depends on the format and on where they are broken.
    except Exception:
        raise InputError(
            f"dataset.path: {name} is not a readable image ({', '.join(_FORMATS)})."
        ) from None
    if pixels is None:
        raise InputError(
            f"dataset.path: {name} has {image.width} x {image.height} pixels; {_MOST_PIXELS:,} are "
            "the most."
        )
    if image.mode.startswith(_DEEP_MODES):
        raise InputError(
            f"dataset.path: {name} has more than 8 bits a channel (mode {image.mode}); "
            "convert it to 8 bits."
        )
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def _show(shape: tuple[int, ...]) -> str:
    return "x".join(str(length) for length in shape)
