"""Images in a tree of folders, one for each class, as torchvision's ImageFolder reads it."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from decrop.data.images import EncodedImages, Shape
from decrop.errors import InputError
from decrop.files import MOST_IMAGE_BYTES, read_bytes

# Those of torchvision's ImageFolder.
_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageFolderSplits:
    """Both splits of an image folder and its class names, in the order of the labels."""

    train: EncodedImages
    test: EncodedImages
    class_names: tuple[str, ...]


def read_image_folder(folder: Path) -> ImageFolderSplits:
    """List `train/<class>/…` and `test/<class>/…` (`val` where there is no `test`).

    Classes are numbered in the order of their names, as torchvision does; the test split may lack
    some of them. Nothing is decoded but the first training image, whose shape all must have.
    """
    train_folder, test_folder = _split_folders(folder)
    class_names = _class_names(train_folder)
    test_names = _class_names(test_folder)
    for name in test_names:
        if name not in class_names:
            raise InputError(
                f"dataset.path: {train_folder} has no class folder {name}, but {test_folder} has; "
                "test images must be of the classes to train on."
            )
    numbers = {name: number for number, name in enumerate(class_names)}
    train = _images(train_folder, numbers)
    test = _images(test_folder, {name: numbers[name] for name in test_names}, train.shape)
    return ImageFolderSplits(train, test, tuple(class_names))


def _split_folders(folder: Path) -> tuple[Path, Path]:
    train = folder / "train"
    tests = [folder / name for name in ("test", "val") if (folder / name).is_dir()]
    if not train.is_dir() or not tests:
        raise InputError(
            f"dataset.path: {folder} has no folder {'test or val' if train.is_dir() else 'train'}; "
            "expected train/<class>/<image> and test/<class>/<image>."
        )
    return train, tests[0]


def _class_names(split: Path) -> list[str]:
    names = sorted(entry.name for entry in split.iterdir() if entry.is_dir())
    if not names:
        raise InputError(
            f"dataset.path: {split} holds no class folders; expected {split}/<class>/<image>."
        )
    return names


def _images(split: Path, numbers: dict[str, int], shape: Shape | None = None) -> EncodedImages:
    paths: list[Path] = []
    labels: list[int] = []
    for name, number in numbers.items():
        found = [path for path in _files(split / name) if path.name.lower().endswith(_EXTENSIONS)]
        if not found:
            raise InputError(
                f"dataset.path: the class folder {split / name} holds no images "
                f"({', '.join(_EXTENSIONS)})."
            )
        paths += found
        labels += [number] * len(found)
    return EncodedImages(_ImageFiles(paths), torch.tensor(labels, dtype=torch.int64), shape)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files under a folder in torchvision's order, each folder's once."""
    walked, known = [], set()
    for root, inner, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in known:
            # A link that goes round in circles.
            inner.clear()
            continue
        known.add(real)
        walked.append((root, sorted(names)))
    for root, names in sorted(walked):
        yield from (Path(root, name) for name in names)


@dataclass(frozen=True)
class _ImageFiles:
    paths: list[Path]

    def read(self, positions: Sequence[int]) -> Iterator[bytes]:
        for position in positions:
            path = self.paths[position]
            yield read_bytes(path, most_bytes=MOST_IMAGE_BYTES, blamed=f"dataset.path: {path}")

    def name(self, position: int) -> str:
        return str(self.paths[position])
