"""Registered datasets."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from decrop.config import DatasetName, DatasetSettings
from decrop.data.sources import ImageSource, InMemoryImages, ParquetImages
from decrop.errors import InputError

_DOWNLOAD_FOLDER = Path.home() / ".cache" / "decrop" / "datasets"
_CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


@dataclass(frozen=True)
class Dataset:
    """Two splits of labelled images with the channel statistics of their [0,1] pixels."""

    name: str
    train: ImageSource
    test: ImageSource
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def class_count(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return len(self.mean)


def load_dataset(settings: DatasetSettings) -> Dataset:
    """Open a dataset; images are decoded later, when they are asked for.

    Raises:
        InputError: the path is missing or has another layout.
    """
    return _DATASETS[settings.name](settings)


def _digits(settings: DatasetSettings) -> Dataset:
    if settings.path is not None:
        raise InputError(
            f"dataset.path: digits come with scikit-learn and take no path, got {settings.path}."
        )
    # Imported where it is used: it takes a second, which most commands can do without.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = torch.from_numpy((digits.images * (255 / 16)).round()).to(torch.uint8)[:, None]
    labels = torch.from_numpy(digits.target).to(torch.int64)
    train, test = train_test_split(
        torch.arange(len(labels)).numpy(), test_size=500, stratify=digits.target, random_state=0
    )
    return Dataset(
        name="digits",
        train=InMemoryImages(images[train], labels[train]),
        test=InMemoryImages(images[test], labels[test]),
        class_names=tuple(str(digit) for digit in range(10)),
        mean=(0.3053,),
        std=(0.3758,),
    )


def _cifar10(settings: DatasetSettings) -> Dataset:
    train, test = _cifar10_splits(settings.path)
    for split in (train, test):
        lowest, highest = int(split.labels.min()), int(split.labels.max())
        if lowest < 0 or highest > 9:
            raise InputError(
                f"dataset.path: labels of {settings.path} range from {lowest} to {highest}; "
                "CIFAR-10 has the classes 0 to 9."
            )
    return Dataset(
        name="cifar10",
        train=train,
        test=test,
        class_names=_CIFAR10_CLASSES,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    )


def _cifar10_splits(path: str | None) -> tuple[ImageSource, ImageSource]:
    if path is None:
        return (
            _torchvision_cifar10(_DOWNLOAD_FOLDER, train=True, download=True),
            _torchvision_cifar10(_DOWNLOAD_FOLDER, train=False, download=True),
        )
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"dataset.path: {folder} is not a folder.")
    if (folder / "train.parquet").exists() or (folder / "test.parquet").exists():
        return ParquetImages(folder / "train.parquet"), ParquetImages(folder / "test.parquet")
    return (
        _torchvision_cifar10(folder, train=True, download=False),
        _torchvision_cifar10(folder, train=False, download=False),
    )


def _torchvision_cifar10(root: Path, *, train: bool, download: bool) -> ImageSource:
    # Imported where it is used: it takes two seconds, and data in parquet files need none of it.
    from decrop._torchvision import torchvision

    try:
        split = torchvision.datasets.CIFAR10(str(root), train=train, download=download)
    except RuntimeError:
        raise InputError(
            f"dataset.path: {root} holds neither train.parquet and test.parquet nor an intact "
            "cifar-10-batches-py folder as torchvision stores it."
        ) from None
    except OSError as error:
        raise InputError(
            f"dataset.path: CIFAR-10 could not be downloaded ({error}); "
            "give the folder of a copy with --set dataset.path=PATH."
        ) from None
    images = torch.from_numpy(split.data).permute(0, 3, 1, 2)
    return InMemoryImages(images, torch.tensor(split.targets, dtype=torch.int64))


_DATASETS: dict[DatasetName, Callable[[DatasetSettings], Dataset]] = {
    "digits": _digits,
    "cifar10": _cifar10,
}
