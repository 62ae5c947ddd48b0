"""A dataset in files: ten classes of small images, told apart by their colour."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

CLASSES = 10
TRAIN_IMAGES = 200


def write_colour_images(folder: Path, *, seed: int = 0, test_images: int = 30) -> Path:
    """Write train.parquet and test.parquet with images 8x8 in the layout of `cifar10`."""
    colours = np.random.default_rng(0).integers(40, 216, (CLASSES, 3))
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for split, count in (("train", TRAIN_IMAGES), ("test", test_images)):
        labels = np.arange(count) % CLASSES
        grain = generator.integers(-30, 31, (count, 8, 8, 3))
        images = np.clip(colours[labels][:, None, None] + grain, 0, 255).astype(np.uint8)
        columns = {"image": [_png(image) for image in images], "label": labels.astype(np.int8)}
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    return folder


def _png(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()
