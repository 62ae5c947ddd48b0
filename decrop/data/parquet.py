"""Images in parquet files with the columns `image` and `label`."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from decrop.data.sources import EncodedImages, Shape
from decrop.errors import InputError


@dataclass(frozen=True)
class ParquetSplit:
    """The images of a parquet file and the class names it declares, if it does."""

    images: EncodedImages
    class_names: tuple[str, ...] | None


def read_parquet_split(path: Path, shape: Shape | None = None) -> ParquetSplit:
    """Open a parquet file with the columns `image` (bytes) and `label` (integer).

    The Hugging Face layout, where `image` is a struct with the field `bytes`, is read as well.
    Class names are those of Hugging Face's ClassLabel, or comma-separated in the schema metadata
    `classes`.

    Args:
        path: the file.
        shape: what every image must have; that of the first one if not given.

    Raises:
        InputError: the file is missing, is not parquet, has other columns, or holds no images.
    """
    if not path.is_file():
        raise InputError(f"dataset.path: {path} does not exist; expected a parquet file there.")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"dataset.path: {path} is not a parquet file: {error}.") from None
    if not {"image", "label"} <= set(table.column_names):
        raise InputError(
            f"dataset.path: {path} has the columns {', '.join(table.column_names)}; "
            f"expected image (bytes) and label (integer)."
        )
    if not table.num_rows:
        raise InputError(f"dataset.path: {path} holds no images.")
    files = _ImageColumn(path, table["image"])
    labels = _labels(path, table["label"])
    return ParquetSplit(EncodedImages(files, labels, shape), _class_names(table.schema))


class _ImageColumn:
    def __init__(self, path: Path, column: pa.ChunkedArray) -> None:
        self._path = path
        self._column = column

    def read(self, positions: Sequence[int]) -> Iterator[bytes]:
        rows = self._column.take(pa.array(positions, pa.int64())).to_pylist()
        for position, row in zip(positions, rows, strict=True):
            encoded = row["bytes"] if isinstance(row, dict) and "bytes" in row else row
            if not isinstance(encoded, bytes):
                raise InputError(
                    f"dataset.path: column image of {self._path} holds {type(encoded).__name__} "
                    f"in row {position}; expected the bytes of an encoded image."
                )
            yield encoded

    def name(self, position: int) -> str:
        return f"row {position} of {self._path}"


def _labels(path: Path, column: pa.ChunkedArray) -> Tensor:
    if not pa.types.is_integer(column.type):
        raise InputError(
            f"dataset.path: column label of {path} is {column.type}; expected an integer type."
        )
    if column.null_count:
        raise InputError(
            f"dataset.path: column label of {path} is empty in {column.null_count} rows; "
            "every image needs a class."
        )
    return torch.from_numpy(column.to_numpy().astype(np.int64, copy=True))


def _class_names(schema: pa.Schema) -> tuple[str, ...] | None:
    metadata = schema.metadata or {}
    try:
        return tuple(json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"])
    except (ValueError, KeyError, TypeError):
        # Other writers put other things there, and labels need no names.
        pass
    if b"classes" in metadata:
        return tuple(name.strip() for name in metadata[b"classes"].decode().split(","))
    return None
