"""Decoding of encoded images: what becomes of every mode, and what is refused by name."""

import io
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from decrop.data.images import EncodedImages, InMemoryImages
from decrop.errors import InputError
from tests.cases import cases
from tests.decrop.data.encoded import png, random_pixels

COLOUR = random_pixels(6)
GREY = random_pixels(3, channels=1)


class Files:
    """Encoded images in memory that remember which of them were read."""

    def __init__(self, *files: bytes) -> None:
        self._files = files
        self.positions: list[int] = []

    def read(self, positions: Sequence[int]) -> Iterator[bytes]:
        for position in positions:
            self.positions.append(position)
            yield self._files[position]

    def name(self, position: int) -> str:
        return f"file {position}"


def encoded(*files: bytes, shape: tuple[int, int, int] | None = None) -> EncodedImages:
    return EncodedImages(Files(*files), torch.zeros(len(files), dtype=torch.int64), shape)


def test_images_are_decoded_in_the_order_asked_for() -> None:
    source = encoded(*(png(image) for image in COLOUR))
    images = source.images(torch.tensor([4, 0, 4]))
    assert images.dtype == torch.uint8
    assert source.shape == images.shape[1:] == (3, 4, 5)
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), COLOUR[[4, 0, 4]])
    assert source.images(torch.tensor([], dtype=torch.int64)).shape == (0, 3, 4, 5)


def test_only_what_is_asked_for_is_read() -> None:
    files = Files(*(png(image) for image in COLOUR))
    source = EncodedImages(files, torch.arange(6))
    assert files.positions == []
    source.images(torch.tensor([5, 2]))
    source.images(torch.tensor([3]))
    # The first image gives the shape, once.
    assert files.positions == [0, 5, 2, 3]


def test_given_shape_needs_no_first_image() -> None:
    files = Files(b"no image", png(COLOUR[1]))
    source = EncodedImages(files, torch.arange(2), (3, 4, 5))
    assert source.images(torch.tensor([1])).shape == (1, 3, 4, 5)
    assert files.positions == [1]


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_images_have_one_channel(mode: str) -> None:
    black_and_white = np.where(GREY[0] > 127, 255, 0).astype(np.uint8)
    (image,) = encoded(png(black_and_white, mode)).images(torch.tensor([0]))
    assert np.array_equal(image.numpy(), black_and_white[None])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_other_images_are_rgb(mode: str) -> None:
    pixels = np.tile(np.array([255, 0, 51], np.uint8), (4, 5, 1))
    (image,) = encoded(png(pixels, mode)).images(torch.tensor([0]))
    assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels)


def broken_png() -> bytes:
    """Return an image of which the pixel data are damaged, though their length is right."""
    content = bytearray(png(random_pixels(1)[0]))
    start = content.index(b"IDAT") + 6
    content[start : start + 8] = bytes(8)
    return bytes(content)


@cases(
    "file",
    [b"", b"GIF89a but no image", png(COLOUR[0])[:60], png(COLOUR[0])[:30], broken_png()],
)
def test_unreadable_image_is_named(file: bytes) -> None:
    with pytest.raises(InputError, match=r"dataset\.path: file 1 is not a readable image"):
        encoded(png(COLOUR[0]), file).images(torch.tensor([0, 1]))
    with pytest.raises(InputError, match=r"file 0 is not a readable image"):
        _ = encoded(file).shape


def test_decompression_bomb_is_refused() -> None:
    bomb = png(np.zeros((4100, 4100), np.uint8))
    with pytest.raises(InputError, match="file 0 has 4100 x 4100 pixels; 16,777,216 are the most"):
        _ = encoded(bomb).shape


def test_formats_that_start_programs_are_not_opened() -> None:
    file = io.BytesIO()
    Image.fromarray(COLOUR[0]).save(file, "EPS")
    with pytest.raises(InputError, match=r"file 0 is not a readable image \(PNG, JPEG"):
        _ = encoded(file.getvalue()).shape


def test_deep_images_are_refused() -> None:
    deep = png(np.arange(20, dtype=np.uint16).reshape(4, 5) * 3000)
    with pytest.raises(InputError, match=r"file 0 has more than 8 bits .*convert it to 8 bits"):
        _ = encoded(deep).shape


@pytest.mark.parametrize(
    ("file", "found"),
    [(png(COLOUR[1, :2]), "3x2x5"), (png(COLOUR[1, :, :2]), "3x4x2"), (png(GREY[1]), "1x4x5")],
)
def test_image_of_another_shape_is_named(file: bytes, found: str) -> None:
    message = rf"file 1 has the shape {found}, but the first training image 3x4x5 \(channels"
    with pytest.raises(InputError, match=message):
        encoded(png(COLOUR[0]), file).images(torch.tensor([1]))
    with pytest.raises(InputError, match=message):
        encoded(b"", file, shape=(3, 4, 5)).images(torch.tensor([1]))


def test_images_in_memory_are_taken_by_position() -> None:
    images = torch.arange(12, dtype=torch.uint8).reshape(3, 1, 2, 2)
    source = InMemoryImages(images, torch.tensor([5, 6, 7]))
    assert torch.equal(source.images(torch.tensor([2, 0])), images[[2, 0]])
    assert source.labels.tolist() == [5, 6, 7]
    assert source.shape == (1, 2, 2)
