"""Registered datasets."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from decrop.config import DatasetSettings
from decrop.config.data import DATASETS
from decrop.config.settings import MOST_CLASSES, different_names
from decrop.data.image_folder import read_image_folder
from decrop.data.images import EncodedImages, ImageSource, InMemoryImages
from decrop.data.parquet import ParquetSplit, read_parquet_split
from decrop.documents import show
from decrop.errors import InputError
from decrop.files import MOST_TABLE_BYTES, refuse_object_store, require_regular
from decrop.wording import counted

_GIVEN_BY = "with --set dataset.path=PATH (that of a bundle's data: --dataset-path PATH)"
_DOWNLOAD_FOLDER = Path.home() / ".cache" / "decrop" / "datasets"


@dataclass(frozen=True)
class Dataset:
    """Two splits of labelled images.

    Attributes:
        test: the test split, whose images have the shape of the training images.
        class_names: in the order of the labels.
        mean: channel means of the [0,1] training pixels, where they are known.
        std: their standard deviations.
    """

    name: str
    train: ImageSource
    test: ImageSource
    class_names: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def class_count(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """Number of image channels, 1 or 3."""
        return self.train.shape[0]


@dataclass(frozen=True)
class _Published:
    """A dataset that torchvision downloads; `torchvision_folder` is where it then is."""

    title: str
    torchvision_name: str
    torchvision_folder: str
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


_CIFAR10 = _Published(
    title="CIFAR-10",
    torchvision_name="CIFAR10",
    torchvision_folder="cifar-10-batches-py",
    class_names=(
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
    ),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
_FASHION_MNIST = _Published(
    title="Fashion-MNIST",
    torchvision_name="FashionMNIST",
    torchvision_folder="FashionMNIST/raw",
    class_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    mean=(0.2860,),
    std=(0.3530,),
)


def load_dataset(settings: DatasetSettings) -> Dataset:
    """Open a dataset; encoded images are decoded later, when they are asked for."""
    if settings.path is not None:
        refuse_object_store(settings.path, f"dataset.path: {settings.path}")
    dataset: Dataset = DATASETS.build(settings.name, settings)
    try:
        different_names(dataset.class_names)
    except ValueError as error:
        raise InputError(f"dataset.path: {settings.path}: {error}.") from None
    return dataset


def digits(settings: DatasetSettings) -> Dataset:
    if settings.path is not None:
        raise InputError(
            f"dataset.path: digits come with scikit-learn and take no path, got {settings.path}."
        )
    # Imported where it is used: it takes a second, which most commands can do without.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    images = torch.from_numpy((found.images * (255 / 16)).round()).to(torch.uint8)[:, None]
    labels = torch.from_numpy(found.target).to(torch.int64)
    train, test = train_test_split(
        torch.arange(len(labels)).numpy(), test_size=500, stratify=found.target, random_state=0
    )
    return Dataset(
        name="digits",
        train=InMemoryImages(images[train], labels[train]),
        test=InMemoryImages(images[test], labels[test]),
        class_names=tuple(str(digit) for digit in range(10)),
        mean=(0.3053,),
        std=(0.3758,),
    )


def _published(published: _Published, settings: DatasetSettings) -> Dataset:
    train, test = _published_splits(published, settings)
    place = settings.path or str(_DOWNLOAD_FOLDER)
    if train.shape[0] != len(published.mean):
        raise InputError(
            f"dataset.path: images of {place} have {counted(train.shape[0], 'channel')}; "
            f"{published.title} has {len(published.mean)}."
        )
    return Dataset(
        name=settings.name,
        train=train,
        test=test,
        class_names=published.class_names,
        mean=published.mean,
        std=published.std,
    )


def _published_splits(
    published: _Published, settings: DatasetSettings
) -> tuple[ImageSource, ImageSource]:
    if settings.path is None:
        return (
            _torchvision_split(published, _DOWNLOAD_FOLDER, train=True, download=True),
            _torchvision_split(published, _DOWNLOAD_FOLDER, train=False, download=True),
        )
    folder = _existing_folder(settings.path)
    if (folder / "train.parquet").exists() or (folder / "test.parquet").exists():
        train, test = _parquet_splits(folder)
        return _with_numbers((train, test), published.class_names, settings)
    return (
        _torchvision_split(published, folder, train=True, download=False),
        _torchvision_split(published, folder, train=False, download=False),
    )


def _torchvision_split(
    published: _Published, root: Path, *, train: bool, download: bool
) -> ImageSource:
    # Imported where it is used: it takes two seconds, and data in parquet files need none of it.
    from decrop._torchvision import torchvision

    read = getattr(torchvision.datasets, published.torchvision_name)
    folder = root / published.torchvision_folder
    if folder.is_dir():
        for file in folder.iterdir():
            require_regular(file, most_bytes=MOST_TABLE_BYTES, blamed=f"dataset.path: {file}")
    try:
        split = read(str(root), train=train, download=download)
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        if download:
            reason = " ".join(str(error).split())
            raise InputError(
                f"dataset.path: {published.title} could not be downloaded ({reason}); "
                f"give the folder of a copy {_GIVEN_BY}."
            ) from None
        raise InputError(
            f"dataset.path: {root} holds neither train.parquet and test.parquet nor an intact "
            f"{published.torchvision_folder} folder as torchvision stores it."
        ) from None
    images = torch.as_tensor(split.data)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return InMemoryImages(images, torch.as_tensor(split.targets, dtype=torch.int64))


def parquet(settings: DatasetSettings) -> Dataset:
    folder = _existing_folder(_required_path(settings))
    train, test = _parquet_splits(folder)
    if train.class_names and test.class_names and train.class_names != test.class_names:
        raise InputError(
            f"dataset.path: train.parquet and test.parquet in {folder} name different classes; "
            "write both with the same."
        )
    class_names = train.class_names or test.class_names
    labels = _different_labels(train) if class_names is None else None
    if labels is not None and labels != list(range(len(labels))):
        warnings.warn(
            f"dataset.path: the labels of {folder} are the classes 0 to {len(labels) - 1} in this "
            f"order: {show(labels)}; to number them otherwise, name all classes in the schema "
            "metadata `classes`.",
            stacklevel=2,
        )
    if class_names is None:
        class_names = tuple(map(str, labels or ()))
    images, test_images = _with_numbers((train, test), class_names, settings, labels)
    return Dataset(name=settings.name, train=images, test=test_images, class_names=class_names)


def _different_labels(train: ParquetSplit) -> list[Any]:
    """Return the labels of the training images, in ascending or alphabetical order."""
    found: list[Any] = np.unique(train.labels).tolist()
    if len(found) > MOST_CLASSES or (not train.has_texts and found[0] < 0):
        raise InputError(
            f"dataset.path: {train.path} has {len(found):,} labels from {show(found[0])} to "
            f"{show(found[-1])}; labels are texts or numbers of at least 0, and {MOST_CLASSES:,} "
            "classes are the most."
        )
    return found


def _with_numbers(
    splits: tuple[ParquetSplit, ParquetSplit],
    class_names: Sequence[str],
    settings: DatasetSettings,
    labels: Sequence[Any] | None = None,
) -> tuple[EncodedImages, EncodedImages]:
    """Return the images of both splits with the numbers of their classes.

    Args:
        class_names: in the order of the numbers.
        labels: that stand for the classes, in that order; where not given, texts are names and
            integers numbers.
    """
    train, test = (
        labels or (class_names if split.has_texts else range(len(class_names))) for split in splits
    )
    images = splits[0].images(train, settings=settings)
    return images, splits[1].images(test, images.shape, settings)


def _parquet_splits(folder: Path) -> tuple[ParquetSplit, ParquetSplit]:
    return read_parquet_split(folder / "train.parquet"), read_parquet_split(folder / "test.parquet")


def image_folder(settings: DatasetSettings) -> Dataset:
    splits = read_image_folder(_existing_folder(_required_path(settings)), settings)
    return Dataset(
        name=settings.name, train=splits.train, test=splits.test, class_names=splits.class_names
    )


def _required_path(settings: DatasetSettings) -> str:
    if settings.path is None:
        raise InputError(
            f"dataset.path: {settings.name} needs the folder of your data; give it {_GIVEN_BY}."
        )
    return settings.path


def _existing_folder(path: str) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"dataset.path: {folder} is not a folder.")
    return folder


cifar10 = partial(_published, _CIFAR10)
fashion_mnist = partial(_published, _FASHION_MNIST)
