"""Images of one split, decoded only when asked for."""

import io
import warnings
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin
from torch import Tensor

from decrop.config import DatasetSettings
from decrop.errors import InputError

Shape = tuple[int, int, int]

# What Pillow calls images of one channel of at most 8 bits; and those with 9 to 16 of them, all of
# which it keeps, by format.
_GREY_MODES = ("1", "L", "LA", "La")
_DEEP_GREY_MODES = {"PNG": ("I;16", "I"), "TIFF": ("I;16", "I;16B"), "PPM": ("I",)}
# Others that Pillow knows start programs (EPS) or are no images of pixels.
_FORMATS = ("PNG", "JPEG", "PPM", "BMP", "GIF", "TIFF", "WEBP")
# Photographs are larger than images that are kept as they are.
_MOST_PIXELS, _MOST_RESIZED_PIXELS = 1 << 24, 1 << 26
_KEPT_BITS, _PNG_DEPTH_AT = 8, 24
_TIFF_BITS = 258


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

    Grey images have 1 channel, all others become RGB; alpha is dropped. Settings may bring all to
    one mode and one size. Grey ones of more than 8 bits are scaled by their depth.

    Args:
        shape: what every image must have; that of the first one if not given.
    """

    def __init__(
        self,
        files: EncodedFiles,
        labels: Tensor,
        shape: Shape | None = None,
        settings: DatasetSettings | None = None,
    ) -> None:
        self._files = files
        self._expected_shape = shape
        self._settings = settings or DatasetSettings()
        self.labels = labels

    @cached_property
    def shape(self) -> Shape:
        """Channels, height and width of every image."""
        if self._expected_shape is not None:
            return self._expected_shape
        (encoded,) = self._files.read([0])
        channels, height, width = _decoded(encoded, self._files.name(0), self._settings).shape
        return channels, height, width

    def images(self, indices: Tensor) -> Tensor:
        """Return the images at `indices`, uint8 [n, C, H, W]."""
        positions = indices.tolist()
        images = np.empty((len(positions), *self.shape), np.uint8)
        encoded = self._files.read(positions)
        for row, (position, content) in enumerate(zip(positions, encoded, strict=True)):
            name = self._files.name(position)
            image = _decoded(content, name, self._settings)
            if image.shape != self.shape:
                remedy = (
                    "dataset.image_size=N, which resizes all and takes their centre"
                    if image.shape[0] == self.shape[0]
                    else "dataset.mode=rgb (or grey), which reads all as colour (or grey)"
                )
                raise InputError(
                    f"dataset.path: {name} has the shape {_show(image.shape)}, but the first "
                    f"training image {_show(self.shape)} (channels x height x width); "
                    f"give --set {remedy}."
                )
            images[row] = image
        return torch.from_numpy(images)


def _decoded(encoded: bytes, name: str, settings: DatasetSettings) -> NDArray[np.uint8]:
    most = _MOST_PIXELS if settings.image_size is None else _MOST_RESIZED_PIXELS
    try:
        with warnings.catch_warnings():
            # Of large images, before they are refused, and of tags that are broken.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(encoded), formats=_FORMATS)
            depth = _bits_a_channel(image, encoded)
            deep_modes = _DEEP_GREY_MODES.get(image.format or "", ())
            shallow = depth <= _KEPT_BITS or image.mode in deep_modes
            count = _pixel_count(image.size, settings)
            pixels = _pixels(image, depth, settings) if shallow and count <= most else None
    # What Pillow raises for broken files depends on the format and on where they are broken.
    except Exception:
        raise InputError(
            f"dataset.path: {name} is not a readable image ({', '.join(_FORMATS)})."
        ) from None
    if pixels is not None:
        return pixels
    if count > most:
        resized = "" if settings.image_size is None else f", or {count:,.0f} once it is resized"
        raise InputError(
            f"dataset.path: {name} has {image.width} x {image.height} pixels{resized}; {most:,} "
            "are the most."
        )
    raise InputError(
        f"dataset.path: {name} has more than 8 bits a channel ({image.format}, mode {image.mode}), "
        "which is read of grey images of whole numbers alone; convert it to 8 bits."
    )


def _pixel_count(size: tuple[int, int], settings: DatasetSettings) -> float:
    """Return how many pixels an image has, as it is or resized, whichever are more."""
    growth = settings.resized_to / max(1, min(size))
    return size[0] * size[1] * max(1.0, growth**2)


def _bits_a_channel(image: Image.Image, encoded: bytes) -> int:
    """Return how many bits a channel has in its file, of which Pillow may keep eight."""
    if image.format == "PNG":
        return encoded[_PNG_DEPTH_AT]
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(_TIFF_BITS, (1,))))
    # Of a portable grey map Pillow scales the values to 16 bits itself.
    return 16 if image.mode.startswith(("I", "F")) else 8


def _pixels(image: Image.Image, depth: int, settings: DatasetSettings) -> NDArray[np.uint8]:
    """Return the image as uint8 [C, H, W], in the mode and size that are asked for."""
    if depth > _KEPT_BITS:
        scaled = np.asarray(image).astype(np.float64) * (255 / (2**depth - 1))
        image = Image.fromarray(scaled.round().astype(np.uint8))
    grey = settings.mode == "grey" if settings.mode else image.mode in _GREY_MODES
    image = image.convert("L" if grey else "RGB")
    if settings.image_size is not None:
        # Imported where it is used: it takes two seconds.
        from decrop._torchvision import torchvision

        transforms = torchvision.transforms.functional
        image = transforms.resize(image, [settings.resized_to])
        image = transforms.center_crop(image, [settings.image_size])
    pixels = np.asarray(image)
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def _show(shape: tuple[int, ...]) -> str:
    return "x".join(str(length) for length in shape)
