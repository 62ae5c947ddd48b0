"""A stand-in for CIFAR-10, 200 random training and 500 test images, and a ResNet-20's weights."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import save_file

from decrop.networks.registry import build_classifier_network
from tests.decrop.data.encoded import png


def write_cifar10(folder: Path) -> None:
    """Write `cifar10/{train,test}.parquet` and `weights.safetensors` into a folder."""
    (folder / "cifar10").mkdir()
    for split, count in (("train", 200), ("test", 500)):
        pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        labels = [number % 10 for number in range(count)]
        table = pa.table({"image": [png(image) for image in pixels], "label": labels})
        pq.write_table(table, folder / "cifar10" / f"{split}.parquet")
    network = build_classifier_network("cifar_resnet20", image_channels=3, class_count=10)
    save_file(network.state_dict(), folder / "weights.safetensors")
