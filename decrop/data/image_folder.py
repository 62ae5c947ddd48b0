"""Images in a tree of folders, one for each class, as torchvision's ImageFolder reads it."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from decrop.config import DatasetSettings
from decrop.data.images import EncodedImages
from decrop.errors import InputError
from decrop.files import MOST_IMAGE_BYTES, read_bytes

# Those of torchvision's ImageFolder.
_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# Of archives that macOS made, and of network drives; other such folders are hidden.
_OF_SYSTEMS = ("__MACOSX", "@eaDir", "#recycle")
_SHOWN_SKIPPED = 5


@dataclass(frozen=True)
class ImageFolderSplits:
    """Both splits of an image folder and its class names, in the order of the labels."""

    train: EncodedImages
    test: EncodedImages
    class_names: tuple[str, ...]


def read_image_folder(folder: Path, settings: DatasetSettings | None = None) -> ImageFolderSplits:
    """List `train/<class>/…` and `test/<class>/…` (`val` where there is no `test`).

    Classes are numbered in the order of their names, as torchvision does; the test split may lack
    some of them. Each file is read once. What is hidden or a system's, links to a folder above, and
    further links to a file are skipped, with one warning. Nothing is decoded but the first training
    image, whose shape all must have.
    """
    train_folder, test_folder = _split_folders(folder)
    skipped: list[Path] = []
    class_names = _class_names(train_folder, skipped)
    test_names = _class_names(test_folder, skipped)
    for name in test_names:
        if name not in class_names:
            raise InputError(
                f"dataset.path: {train_folder} has no class folder {name}, but {test_folder} has; "
                "test images must be of the classes to train on."
            )
    numbers = {name: number for number, name in enumerate(class_names)}
    train, train_labels = _listed(train_folder, numbers, skipped)
    test, test_labels = _listed(test_folder, {name: numbers[name] for name in test_names}, skipped)
    if skipped:
        shown = [str(path.relative_to(folder)) for path in skipped[:_SHOWN_SKIPPED]]
        rest = ", …" if len(skipped) > len(shown) else ""
        warnings.warn(
            f"dataset.path: {folder}: skipped {', '.join(shown)}{rest} ({len(skipped)} in all): "
            "hidden, a system's, or links to a folder above or to a file that is read already.",
            stacklevel=2,
        )
    train_images = EncodedImages(train, train_labels, settings=settings)
    test_images = EncodedImages(test, test_labels, train_images.shape, settings)
    return ImageFolderSplits(train_images, test_images, tuple(class_names))


def _split_folders(folder: Path) -> tuple[Path, Path]:
    train = folder / "train"
    tests = [folder / name for name in ("test", "val") if (folder / name).is_dir()]
    if not train.is_dir() or not tests:
        raise InputError(
            f"dataset.path: {folder} has no folder {'test or val' if train.is_dir() else 'train'}; "
            "expected train/<class>/<image> and test/<class>/<image>."
        )
    return train, tests[0]


def _class_names(split: Path, skipped: list[Path]) -> list[str]:
    folders = sorted(entry.name for entry in split.iterdir() if entry.is_dir())
    names = _without_skipped(split, folders, skipped)
    if not names:
        raise InputError(
            f"dataset.path: {split} holds no class folders; expected {split}/<class>/<image>."
        )
    return names


def _listed(
    split: Path, numbers: dict[str, int], skipped: list[Path]
) -> tuple["_ImageFiles", torch.Tensor]:
    """Return the image files of a split and of each its label, int64 [N]."""
    found = [
        (file, number) for name, number in numbers.items() for file in _files(split, name, skipped)
    ]
    # A file belongs where it lies; where only links lead to it, to the first of them.
    first: dict[Path, Path] = {}
    for file, _ in sorted(found, key=lambda entry: not entry[0].lies_there):
        first.setdefault(file.real, file.path)
    kept = [(file.path, number) for file, number in found if first[file.real] is file.path]
    skipped += [file.path for file, _ in found if first[file.real] is not file.path]
    for name in numbers.keys() - {path.relative_to(split).parts[0] for path, _ in kept}:
        raise InputError(
            f"dataset.path: the class folder {split / name} holds no images "
            f"({', '.join(_EXTENSIONS)})."
        )
    labels = torch.tensor([number for _, number in kept], dtype=torch.int64)
    return _ImageFiles([path for path, _ in kept]), labels


@dataclass(frozen=True)
class _File:
    """A file, its path without links, and whether no link led to it within the split."""

    path: Path
    real: Path
    lies_there: bool


def _files(split: Path, name: str, skipped: list[Path]) -> Iterator[_File]:
    """Yield the images of a class in torchvision's order, each folder's once."""
    real_split = split.resolve()
    walked: list[tuple[str, Path, list[str]]] = []
    known = set()
    for root, inner, names in os.walk(split / name, followlinks=True):
        real = Path(root).resolve()
        if real in known:
            # A link that goes round in circles.
            inner.clear()
            continue
        known.add(real)
        inner[:] = _without_skipped(Path(root), inner, skipped)
        walked.append((root, real, sorted(names)))
    for root, real, names in sorted(walked):
        lies_there = real == real_split / Path(root).relative_to(split)
        images = [name for name in names if name.lower().endswith(_EXTENSIONS)]
        for image in _without_skipped(Path(root), images, skipped):
            path = Path(root, image)
            linked = path.is_symlink()
            yield _File(path, path.resolve() if linked else real / image, lies_there and not linked)


def _without_skipped(folder: Path, names: Iterable[str], skipped: list[Path]) -> list[str]:
    """Return the names in a folder that are read, and add the others to those skipped."""
    kept = []
    for name in names:
        path = folder / name
        if name.startswith(".") or name in _OF_SYSTEMS or _leads_up(path):
            skipped.append(path)
        else:
            kept.append(name)
    return kept


def _leads_up(path: Path) -> bool:
    """Tell whether a path is a link to a folder that it lies in."""
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


@dataclass(frozen=True)
class _ImageFiles:
    paths: list[Path]

    def read(self, positions: Sequence[int]) -> Iterator[bytes]:
        for position in positions:
            path = self.paths[position]
            yield read_bytes(path, most_bytes=MOST_IMAGE_BYTES, blamed=f"dataset.path: {path}")

    def name(self, position: int) -> str:
        return str(self.paths[position])
