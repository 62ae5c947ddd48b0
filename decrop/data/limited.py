"""The limited data: the class-balanced part of the training split that is available."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decrop.config import LimitedDataSettings
from decrop.data.datasets import Dataset
from decrop.data.images import ImageSource
from decrop.errors import InputError
from decrop.files import sha256_of_tensors
from decrop.seeds import numpy_generator
from decrop.wording import counted

_SURELY_TAKEN = 10
# One to train on, one held out.
_LEAST_SHARE = 2


@dataclass(frozen=True)
class LabelledImages:
    """Images uint8 [n, C, H, W], labels int64 [n] and their positions in the split, int64 [n]."""

    images: Tensor
    labels: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, mask: Tensor) -> "LabelledImages":
        """Return the images where `mask` (bool [n]) is true."""
        return LabelledImages(self.images[mask], self.labels[mask], self.indices[mask])

    def content_hash(self) -> str:
        """Hash images and labels, in order."""
        return sha256_of_tensors({"images": self.images, "labels": self.labels})


@dataclass(frozen=True)
class LimitedData:
    """The limited data and which of it is held out of training, bool [n]."""

    all: LabelledImages
    held_out_mask: Tensor

    @property
    def held_out(self) -> LabelledImages:
        """The images that are held out."""
        return self.all.subset(self.held_out_mask)

    @property
    def without_held_out(self) -> LabelledImages:
        """The others."""
        return self.all.subset(~self.held_out_mask)


def limited_data(dataset: Dataset, settings: LimitedDataSettings) -> LimitedData:
    """Choose the limited data: equally many images a class, and of those the same share held out.

    A class with fewer images than its share gives all it has. Where the share of a class is less
    than two images, they are chosen from all classes together. The choice depends on the labels and
    `settings.seed` only (DE-CROP, section 5).
    """
    labels = dataset.train.labels.numpy()
    strata: dict[tuple[int, ...], tuple[str, NDArray[np.int64]]] = {
        (label,): (f"class {name}", np.flatnonzero(labels == label))
        for label, name in enumerate(dataset.class_names)
    }
    share = round(settings.fraction * len(labels) / dataset.class_count)
    if share < _LEAST_SHARE:
        strata = {(): ("all classes together", np.arange(len(labels)))}
        share = round(settings.fraction * len(labels))
    chosen: list[np.ndarray] = []
    held_out: list[np.ndarray] = []
    for number, (named, members) in strata.items():
        taken = min(share, len(members))
        held = round(settings.held_out_fraction * taken)
        if taken - held < 1 or held < 1:
            raise InputError(
                f"limited.fraction {settings.fraction} with limited.held_out_fraction "
                f"{settings.held_out_fraction} leaves {named} {counted(taken - held, 'image')} to "
                f"train on and {held} held out, of {len(members)}; both need at least 1."
            )
        order = numpy_generator(settings.seed, "limited", *number).permutation(members)[:taken]
        chosen.append(order)
        held_out.append(np.arange(taken) < held)
    indices = torch.from_numpy(np.concatenate(chosen))
    order_in_split = torch.argsort(indices)
    indices = indices[order_in_split]
    mask = torch.from_numpy(np.concatenate(held_out))[order_in_split]
    return LimitedData(take(dataset.train, indices), mask)


def evenly_spaced(source: ImageSource, count: int) -> LabelledImages:
    """Take `count` evenly spaced images of a split, or all if it has fewer.

    Where that would skip a class, for the labels of the split follow a pattern, the images are
    evenly spaced in the order of the labels instead.
    """
    labels = source.labels
    total = len(labels)
    count = min(count, total)
    indices = torch.arange(count) * total // count
    expected = labels.bincount() * count / total
    taken = labels[indices].bincount(minlength=len(expected))
    # By chance a class of so many would be missing once in thousands of selections.
    if ((taken == 0) & (expected >= _SURELY_TAKEN)).any():
        indices = labels.argsort(stable=True)[indices].sort().values
    return take(source, indices)


def check_test_images(dataset: Dataset, count: int) -> None:
    """Raise InputError where more test images are to be certified than there are."""
    there = len(dataset.test.labels)
    if count > there:
        raise InputError(
            f"certification.test_images = {count}: the test split has {counted(there, 'image')}; "
            f"certify all of them with --set certification.test_images={there}."
        )


def images_to_certify(dataset: Dataset, count: int) -> LabelledImages:
    """Take `count` evenly spaced test images, which must be there."""
    check_test_images(dataset, count)
    return evenly_spaced(dataset.test, count)


def take(source: ImageSource, indices: Tensor) -> LabelledImages:
    """Decode the images of a split at `indices`, int64 [n]."""
    return LabelledImages(source.images(indices), source.labels[indices], indices)


def take_recorded(
    source: ImageSource, indices: Tensor, content_hash: str, *, named: str
) -> LabelledImages:
    """Decode the images that were certified, as recorded by their positions and their hash.

    Args:
        indices: int64 [n], n >= 1.
        content_hash: of images and labels (`LabelledImages.content_hash`).
    """
    if int(indices.max()) >= len(source.labels):
        raise InputError(
            f"dataset.path: the data have {counted(len(source.labels), 'image')}, but image "
            f"{int(indices.max())} was certified; give the dataset of the certificates."
        )
    images = take(source, indices)
    if images.content_hash() != content_hash:
        raise InputError(
            f"dataset.path: the images of {named} are not those that were certified; give the "
            "dataset of the certificates with --dataset-path."
        )
    return images
