"""Images of one split, decoded only when asked for."""

import io
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from decrop.errors import InputError


class ImageSource(Protocol):
    """One split of a dataset."""

    @property
    def labels(self) -> Tensor:
        """Class indices, int64 [N]."""
        ...

    def images(self, indices: Tensor) -> Tensor:
        """Return the images at `indices`, uint8 [n, C, H, W]."""
        ...


class InMemoryImages:
    """Images that are already decoded: uint8 [N, C, H, W] with labels int64 [N]."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self._images = images
        self.labels = labels

    def images(self, indices: Tensor) -> Tensor:
        """Return the images at `indices`, uint8 [n, C, H, W]."""
        return self._images[indices]


class ParquetImages:
    """Encoded images in a parquet file with the columns `image` (bytes) and `label` (integer).

    The Hugging Face layout, where `image` is a struct with the field `bytes`, is read as well.

    Raises:
        InputError: the file is missing, is not parquet, has other columns, or holds no images.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"dataset.path: {path} does not exist; expected a parquet file there.")
        try:
            self._table = pq.read_table(path)
        except pa.ArrowInvalid as error:
            raise InputError(f"dataset.path: {path} is not a parquet file: {error}.") from None
        self._path = path
        missing = [name for name in ("image", "label") if name not in self._table.column_names]
        if missing:
            raise InputError(
                f"dataset.path: {path} has the columns {', '.join(self._table.column_names)}; "
                f"expected image (bytes) and label (integer)."
            )
        label_type = self._table.schema.field("label").type
        if not pa.types.is_integer(label_type):
            raise InputError(
                f"dataset.path: column label of {path} is {label_type}; expected an integer type."
            )
        if not self._table.num_rows:
            raise InputError(f"dataset.path: {path} holds no images.")
        self.labels = torch.from_numpy(self._table["label"].to_numpy().astype(np.int64, copy=True))

    def images(self, indices: Tensor) -> Tensor:
        """Return the images at `indices`, uint8 [n, 3, H, W].

        Raises:
            InputError: an image cannot be decoded, or sizes differ.
        """
        rows = self._table["image"].take(pa.array(indices.numpy())).to_pylist()
        decoded = [self._decode(row, int(index)) for row, index in zip(rows, indices, strict=True)]
        shapes = sorted({image.shape for image in decoded})
        if len(shapes) > 1:
            raise InputError(
                f"dataset.path: images of {self._path} have different shapes, "
                f"{shapes[0]} and {shapes[1]}; expected one."
            )
        return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous()

    def _decode(self, row: object, index: int) -> np.ndarray:
        encoded = row["bytes"] if isinstance(row, dict) and "bytes" in row else row
        if not isinstance(encoded, bytes):
            raise InputError(
                f"dataset.path: column image of {self._path} holds {type(encoded).__name__} "
                f"in row {index}; expected the bytes of an encoded image."
            )
        try:
            return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
        except (UnidentifiedImageError, OSError):
            raise InputError(
                f"dataset.path: row {index} of {self._path} is not a readable image."
            ) from None
