"""Decoding of encoded images: what becomes of every mode, and what is refused by name."""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from decrop._torchvision import torchvision
from decrop.config import DatasetSettings
from decrop.data.images import EncodedImages, Shape
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


def encoded(
    *files: bytes, shape: Shape | None = None, settings: DatasetSettings | None = None
) -> EncodedImages:
    labels = torch.zeros(len(files), dtype=torch.int64)
    return EncodedImages(Files(*files), labels, shape, settings)


def of_photographs(**settings: Any) -> DatasetSettings:
    return DatasetSettings(name="image_folder", **settings)


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


DEEP = np.array([[0, 128, 129], [33_000, 65_000, 65_535]], np.uint16)


def saved(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@cases("kind", ["PNG", "TIFF", "PPM"])
def test_deep_grey_images_are_scaled_by_their_depth(kind: str) -> None:
    # Rounded, not cut: 129 of 65,535 is nearer to 1 of 255 than to 0.
    expected = [[0, 0, 1], [128, 253, 255]]
    for mode, values in ((None, [expected]), ("rgb", [expected] * 3)):
        source = encoded(saved(Image.fromarray(DEEP), kind), settings=of_photographs(mode=mode))
        assert source.images(torch.tensor([0]))[0].tolist() == values


def deep_colour_png() -> bytes:
    """Return an image of one pixel with 16 bits a channel, of which Pillow would keep eight."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        end = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + end

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixel = zlib.compress(b"\0" + bytes([1, 200] * 3))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")
    )


@cases(
    "file",
    [
        deep_colour_png(),
        saved(Image.fromarray(DEEP.astype(np.float32)), "TIFF"),
        saved(Image.fromarray(DEEP.astype(np.int32)), "TIFF"),
    ],
)
def test_other_deep_images_are_refused(file: bytes) -> None:
    with pytest.raises(InputError, match=r"file 0 has more than 8 bits .*convert it to 8 bits"):
        _ = encoded(file).shape


def test_photographs_are_resized_and_cropped_as_by_torchvisions_presets() -> None:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, shape, np.uint8) for shape in ((60, 90, 3), (80, 50, 3))]
    pixels.append(rng.integers(0, 256, (70, 64), np.uint8))
    preset = torchvision.transforms._presets.ImageClassification(
        crop_size=28, resize_size=32, mean=(0, 0, 0), std=(1, 1, 1)
    )
    expected = [preset(Image.fromarray(image).convert("RGB")) * 255 for image in pixels]
    files = [png(image) for image in pixels]
    source = encoded(*files, settings=of_photographs(image_size=28, mode="rgb"))
    assert source.shape == (3, 28, 28)
    assert torch.equal(source.images(torch.arange(3)), torch.stack(expected).round().byte())
    other = of_photographs(image_size=28, resize_size=30, mode="rgb")
    assert not torch.equal(
        encoded(*files, settings=other).images(torch.arange(3)), source.images(torch.arange(3))
    )


def test_all_modes_are_read_as_grey() -> None:
    files = [png(COLOUR[0]), png(GREY[0]), png(COLOUR[0], "P"), png(COLOUR[0], "RGBA")]
    images = encoded(*files, settings=of_photographs(mode="grey")).images(torch.arange(4))
    expected = np.asarray(Image.fromarray(COLOUR[0]).convert("L"))
    assert images.shape == (4, 1, 4, 5)
    assert np.array_equal(images[[0, 3]].numpy(), [expected[None]] * 2)
    assert np.array_equal(images[1, 0].numpy(), GREY[0])


def test_images_that_grow_beyond_memory_are_refused() -> None:
    long = png(np.zeros((20_000, 2), np.uint8))
    with pytest.raises(InputError, match="2 x 20000 pixels, or 655,360,000 once it is resized"):
        _ = encoded(long, settings=of_photographs(image_size=224)).shape


def test_a_palette_with_transparency_warns_of_nothing(recwarn: pytest.WarningsRecorder) -> None:
    image, file = Image.fromarray(COLOUR[0]).convert("P"), io.BytesIO()
    image.save(file, "PNG", transparency=bytes(range(100)))
    assert encoded(file.getvalue()).shape == (3, 4, 5)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("file", "found"),
    [(png(COLOUR[1, :2]), "3x2x5"), (png(COLOUR[1, :, :2]), "3x4x2"), (png(GREY[1]), "1x4x5")],
)
def test_image_of_another_shape_is_named(file: bytes, found: str) -> None:
    message = (
        rf"file 1 has the shape {found}, but the first training image 3x4x5 \(channels .* "
        rf"--set dataset\.{'mode=rgb' if found[0] == '1' else 'image_size=N'}"
    )
    with pytest.raises(InputError, match=message):
        encoded(png(COLOUR[0]), file).images(torch.tensor([1]))
    with pytest.raises(InputError, match=message):
        encoded(b"", file, shape=(3, 4, 5)).images(torch.tensor([1]))
