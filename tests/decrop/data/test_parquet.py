"""Images in parquet files, in both layouts, their class names, and every file that is none."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from decrop.data.images import EncodedImages, Shape
from decrop.data.parquet import read_parquet_split
from decrop.errors import InputError
from tests.decrop.data.encoded import png, random_pixels

PIXELS = random_pixels(6)
LABELS = [3, 1, 4, 1, 5, 9]


def written(path: Path, metadata: dict[str, str] | None = None, **columns: Any) -> Path:
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return path


def opened(path: Path, shape: Shape | None = None) -> EncodedImages:
    return read_parquet_split(path).images(range(10), shape)


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
    source = opened(path)
    assert source.labels.dtype == torch.int64
    assert source.labels.tolist() == LABELS
    images = source.images(torch.tensor([4, 0, 4]))
    assert images.shape == (3, 3, 4, 5)
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), PIXELS[[4, 0, 4]])


def test_rows_are_found_in_any_row_group(tmp_path: Path) -> None:
    table = pa.table({"image": images_column("bytes"), "label": LABELS})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    images = opened(tmp_path / "a.parquet").images(torch.arange(6))
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), PIXELS)


def hugging_face(label: Any) -> str:
    return json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": label}}})


CLASS_LABEL = hugging_face({"names": ["cat", "dog"], "_type": "ClassLabel"})


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ({"huggingface": CLASS_LABEL}, ("cat", "dog")),
        ({"classes": "cat, dog,big frog"}, ("cat", "dog", "big frog")),
        ({"huggingface": CLASS_LABEL, "classes": "frog"}, ("cat", "dog")),
        (
            {
                "huggingface": hugging_face({"dtype": "int64", "_type": "Value"}),
                "classes": "frog,cat",
            },
            ("frog", "cat"),
        ),
        ({"huggingface": "not JSON"}, None),
        ({"huggingface": "[]"}, None),
        ({"pandas": "{}"}, None),
        (None, None),
    ],
)
def test_class_names_are_those_the_file_declares(
    tmp_path: Path, metadata: dict[str, str] | None, names: tuple[str, ...] | None
) -> None:
    path = written(tmp_path / "a.parquet", metadata, image=[b""], label=[0])
    assert read_parquet_split(path).class_names == names


def test_missing_and_other_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset\.path: .*none\.parquet does not exist"):
        read_parquet_split(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no parquet, but long enough to have a footer")
    with pytest.raises(InputError, match=r"text\.parquet is not a parquet file"):
        read_parquet_split(tmp_path / "text.parquet")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"img": [b""], "label": [1]}, r"has the columns img, label; expected image .* label"),
        ({"image": [b""], "fine_label": [1]}, "has the columns image, fine_label"),
        ({"image": [b""], "label": [0.5]}, r"column label .* is double; expected integers or t"),
        ({"image": [b""] * 3, "label": [1, None, None]}, r"column label .* is empty in 2 rows"),
        (
            {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int8())},
            r"a\.parquet holds no images",
        ),
    ],
)
def test_other_columns_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    path = written(tmp_path / "a.parquet", **columns)
    with pytest.raises(InputError, match=message):
        read_parquet_split(path)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([png(PIXELS[0]), b"no image"], r"row 1 of .*a\.parquet is not a readable image"),
        ([png(PIXELS[0]), png(PIXELS[1, :2])], r"row 1 of .*a\.parquet has the shape 3x2x5"),
        ([png(PIXELS[0]), None], "holds NoneType in row 1; expected the bytes"),
        (["a.png", "b.png"], "holds str in row 0; expected the bytes"),
        ([{"path": "a.png"}, {"path": "b.png"}], "holds dict in row 0; expected the bytes"),
    ],
)
def test_unusable_images_are_named(tmp_path: Path, images: list[Any], message: str) -> None:
    source = opened(written(tmp_path / "a.parquet", image=images, label=[0, 1]))
    with pytest.raises(InputError, match=message):
        source.images(torch.arange(2))


def test_a_value_that_is_repeated_beyond_the_files_size_is_refused(tmp_path: Path) -> None:
    many = 2_000
    image = pa.array([b"x" * 100_000]).dictionary_encode().take(pa.array([0] * many))
    path = written(tmp_path / "a.parquet", image=image.cast(pa.binary()), label=[0] * many)
    assert path.stat().st_size < 300_000
    with pytest.raises(InputError, match="grows to more than 100 times its size"):
        read_parquet_split(path)


def test_more_rows_than_images_are_refused(tmp_path: Path) -> None:
    many = 20_000_001
    label = pa.array(np.zeros(many, np.int8))
    path = written(tmp_path / "a.parquet", image=pa.nulls(many, pa.binary()), label=label)
    with pytest.raises(InputError, match=r"has 20,000,001 rows; 20,000,000 are the most"):
        read_parquet_split(path)


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([b""])] * 2 + [pa.array([0])], ["image"] * 2 + ["label"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="once each"):
        read_parquet_split(tmp_path / "a.parquet")


def test_class_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    table = pa.table({"image": [b""], "label": [0]})
    pq.write_table(table.replace_schema_metadata({b"classes": b"\xff,b"}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="the schema metadata classes are not UTF-8"):
        read_parquet_split(tmp_path / "a.parquet")
    deep = "[" * 100_000
    path = written(tmp_path / "b.parquet", {"huggingface": deep}, image=[b""], label=[0])
    assert read_parquet_split(path).class_names is None


@pytest.mark.timeout(20)
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="is a pipe, not a regular file"):
        read_parquet_split(tmp_path / "a.parquet")


def test_an_image_that_is_too_long_is_refused(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.parquet", image=[np.random.default_rng(0).bytes(33 << 20)], label=[0]
    )
    with pytest.raises(InputError, match="images of more than 33,554,432 bytes"):
        read_parquet_split(path)
