"""Images in parquet files, in both layouts, and every file that is none."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from decrop.data.sources import InMemoryImages, ParquetImages
from decrop.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
LABELS = [3, 1, 4, 1, 5, 9]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def written(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def images_column(layout: str) -> pa.Array:
    encoded = [png(image) for image in PIXELS]
    if layout == "bytes":
        return pa.array(encoded)
    return pa.array([{"bytes": image, "path": None} for image in encoded])


@pytest.mark.parametrize("layout", ["bytes", "hugging face"])
@pytest.mark.parametrize("label_type", [pa.int8(), pa.int64(), pa.uint16()])
def test_images_and_labels_are_read(tmp_path: Path, layout: str, label_type: pa.DataType) -> None:
    labels = pa.array(LABELS, label_type)
    path = written(tmp_path / "a.parquet", label=labels, image=images_column(layout), extra=labels)
    source = ParquetImages(path)
    assert source.labels.dtype == torch.int64
    assert source.labels.tolist() == LABELS
    images = source.images(torch.tensor([4, 0, 4]))
    assert images.dtype == torch.uint8
    assert images.shape == (3, 3, 4, 5)
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), PIXELS[[4, 0, 4]])


def test_rows_are_found_in_any_row_group(tmp_path: Path) -> None:
    table = pa.table({"image": images_column("bytes"), "label": LABELS})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    images = ParquetImages(tmp_path / "a.parquet").images(torch.arange(6))
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), PIXELS)


def test_grey_images_become_rgb(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", image=[png(PIXELS[0, :, :, 0])], label=[0])
    (image,) = ParquetImages(path).images(torch.tensor([0]))
    assert image.shape == (3, 4, 5)
    assert all(np.array_equal(channel.numpy(), PIXELS[0, :, :, 0]) for channel in image)


def test_missing_and_other_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset\.path: .*none\.parquet does not exist"):
        ParquetImages(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no parquet, but long enough to have a footer")
    with pytest.raises(InputError, match=r"text\.parquet is not a parquet file"):
        ParquetImages(tmp_path / "text.parquet")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"img": [b""], "label": [1]}, r"has the columns img, label; expected image .* label"),
        ({"image": [b""], "fine_label": [1]}, "has the columns image, fine_label"),
        ({"image": [b""], "label": ["cat"]}, r"column label .* is string; expected an integer"),
        ({"image": [b""], "label": [0.5]}, r"column label .* is double"),
    ],
)
def test_other_columns_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    path = written(tmp_path / "a.parquet", **columns)
    with pytest.raises(InputError, match=message):
        ParquetImages(path)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            [png(PIXELS[0]), b"GIF89a but no image"],
            r"row 1 of .*a\.parquet is not a readable image",
        ),
        ([png(PIXELS[0]), png(PIXELS[1])[:60]], "row 1 of .* is not a readable image"),
        ([png(PIXELS[0]), b""], "row 1 of .* is not a readable image"),
        ([png(PIXELS[0]), png(PIXELS[1, :2])], r"different shapes, \(2, 5, 3\) and \(4, 5, 3\)"),
        ([png(PIXELS[0]), None], "holds NoneType in row 1; expected the bytes"),
        (["a.png", "b.png"], "holds str in row 0; expected the bytes"),
        ([{"path": "a.png"}, {"path": "b.png"}], "holds dict in row 0; expected the bytes"),
    ],
)
def test_unusable_images_are_named(tmp_path: Path, images: list[Any], message: str) -> None:
    source = ParquetImages(written(tmp_path / "a.parquet", image=images, label=[0, 1]))
    with pytest.raises(InputError, match=message):
        source.images(torch.arange(2))


def test_images_in_memory_are_taken_by_position() -> None:
    images = torch.arange(12, dtype=torch.uint8).reshape(3, 1, 2, 2)
    source = InMemoryImages(images, torch.tensor([5, 6, 7]))
    assert torch.equal(source.images(torch.tensor([2, 0])), images[[2, 0]])
    assert source.labels.tolist() == [5, 6, 7]
