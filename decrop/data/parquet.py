"""Images in parquet files with the columns `image` and `label`."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from decrop.config import DatasetSettings
from decrop.data.images import EncodedImages, Shape
from decrop.documents import show
from decrop.errors import InputError
from decrop.files import MOST_DATA_BYTES, MOST_IMAGE_BYTES, require_regular
from decrop.wording import counted

_COLUMNS = ("image", "label")
_SHOWN_COLUMNS = 20
_MOST_ROWS = 20_000_000
_MOST_ROWS_AT_ONCE, _MOST_BYTES_AT_ONCE = 1 << 16, 1 << 28
_MOST_GROWTH, _SMALL = 100, 1 << 24


Labels = NDArray[np.int64] | NDArray[np.object_]


@dataclass(frozen=True)
class ParquetSplit:
    """A parquet file of images.

    Attributes:
        labels: of each image, as the file has them: int64 [N], or texts [N].
        class_names: that the file declares, if it does.
    """

    path: Path
    labels: Labels
    class_names: tuple[str, ...] | None
    _column: "_ImageColumn"

    @property
    def has_texts(self) -> bool:
        """Whether labels are texts."""
        return self.labels.dtype == np.object_

    def images(
        self,
        classes: Sequence[Any],
        shape: Shape | None = None,
        settings: DatasetSettings | None = None,
    ) -> EncodedImages:
        """Return the images with their classes' numbers.

        Args:
            classes: labels, in the order of the classes' numbers.
            shape: what every image must have; that of the first one if not given.
        """
        numbers = {label: number for number, label in enumerate(classes)}
        found, places = np.unique(self.labels, return_inverse=True)
        for label in found.tolist():
            if label not in numbers:
                raise InputError(
                    f"dataset.path: {self.path} has the label {show(label)}, which is none of the "
                    f"{len(numbers)} classes, {show(classes[0])} to {show(classes[-1])}."
                )
        of_each = np.array([numbers[label] for label in found.tolist()], np.int64)[places]
        return EncodedImages(self._column, torch.from_numpy(of_each), shape, settings)


def read_parquet_split(path: Path) -> ParquetSplit:
    """Open a parquet file with the columns `image` (bytes) and `label` (integers or texts).

    The Hugging Face layout, where `image` is a struct with the field `bytes`, is read as well.
    Class names are those of Hugging Face's ClassLabel, or comma-separated in the schema metadata
    `classes`.
    """
    require_regular(path, most_bytes=MOST_DATA_BYTES, blamed=f"dataset.path: {path}")
    try:
        table = _read(path)
    except InputError:
        raise
    # Broken files fail anywhere inside pyarrow, also for want of memory that they ask for.
    except (pa.ArrowException, OSError, MemoryError, ValueError, LookupError) as error:
        raise InputError(f"dataset.path: {path} is not a parquet file: {error}.") from None
    if not table.num_rows:
        raise InputError(f"dataset.path: {path} holds no images.")
    labels = _labels(path, table["label"])
    names = _class_names(path, table.schema)
    return ParquetSplit(path, labels, names, _ImageColumn(path, table["image"]))


def _read(path: Path) -> pa.Table:
    """Return the two columns, while they are not larger than such a file's can be."""
    parquet = pq.ParquetFile(path)
    names = parquet.schema_arrow.names
    if any(names.count(name) != 1 for name in _COLUMNS):
        raise InputError(
            f"dataset.path: {path} has the columns {', '.join(names[:_SHOWN_COLUMNS])}; "
            f"expected image (bytes) and label (integers or texts), once each."
        )
    rows = parquet.metadata.num_rows
    if rows > _MOST_ROWS:
        raise InputError(f"dataset.path: {path} has {rows:,} rows; {_MOST_ROWS:,} are the most.")
    # Images are compressed already: what grows so much is one value, repeated.
    room = _SMALL + _MOST_GROWTH * path.stat().st_size
    groups = range(parquet.num_row_groups)
    sizes = [1, *(parquet.metadata.row_group(group).total_byte_size for group in groups)]
    # As many at once as fit if each row repeats all that its row group holds.
    at_once = max(1, min(_MOST_ROWS_AT_ONCE, _MOST_BYTES_AT_ONCE // max(sizes)))
    grows = InputError(
        f"dataset.path: {path} grows to more than {_MOST_GROWTH} times its size when it is read, "
        "which no images do."
    )
    if sum(sizes) > room:
        raise grows
    batches = []
    for batch in parquet.iter_batches(at_once, columns=list(_COLUMNS)):
        if batch.nbytes > MOST_IMAGE_BYTES * batch.num_rows:
            raise InputError(
                f"dataset.path: {path} holds images of more than {MOST_IMAGE_BYTES:,} bytes, which "
                "are the most."
            )
        batches.append(batch)
        room -= batch.nbytes
        if room < 0:
            raise grows
    return pa.Table.from_batches(batches, parquet.schema_arrow if not batches else None)


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


def _labels(path: Path, column: pa.ChunkedArray) -> Labels:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not texts and not pa.types.is_integer(kind):
        raise InputError(
            f"dataset.path: column label of {path} is {column.type}; expected integers or texts."
        )
    if column.null_count:
        raise InputError(
            f"dataset.path: column label of {path} is empty in "
            f"{counted(column.null_count, 'row')}; every image needs a class."
        )
    values = column.cast(kind).to_numpy()
    labels: Labels = values.astype(np.object_) if texts else values.astype(np.int64, copy=True)
    return labels


def _class_names(path: Path, schema: pa.Schema) -> tuple[str, ...] | None:
    metadata = schema.metadata or {}
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"]
        if all(isinstance(name, str) for name in names):
            return tuple(names)
    except (ValueError, KeyError, TypeError, RecursionError):
        # Other writers put other things there, and labels need no names.
        pass
    if b"classes" not in metadata:
        return None
    try:
        return tuple(name.strip() for name in metadata[b"classes"].decode().split(","))
    except UnicodeDecodeError:
        raise InputError(
            f"dataset.path: {path}: the schema metadata classes are not UTF-8."
        ) from None
