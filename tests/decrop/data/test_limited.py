"""The limited data: balanced, reproducible, and split the same way in every trial."""

import pytest
import torch
from torch import Tensor

from decrop.config import LimitedDataSettings
from decrop.data.datasets import Dataset
from decrop.data.images import InMemoryImages
from decrop.data.limited import LabelledImages, LimitedData, evenly_spaced, limited_data
from decrop.errors import InputError
from tests.cases import cases
from tests.decrop.tiny import tiny_dataset
from tests.refusals import one_line

CLASSES = 5
# Classes in turn, 80 images each.
LABELS = torch.arange(80 * CLASSES) % CLASSES


def draw(
    dataset: Dataset | None = None, fraction: float = 0.25, held_out: float = 0.2, seed: int = 0
) -> LimitedData:
    settings = LimitedDataSettings(fraction=fraction, held_out_fraction=held_out, seed=seed)
    return limited_data(dataset or tiny_dataset(LABELS, class_count=CLASSES), settings)


def per_class(labels: Tensor) -> list[int]:
    return labels.bincount(minlength=CLASSES).tolist()


def test_classes_are_balanced_in_both_parts() -> None:
    limited = draw()
    assert per_class(limited.all.labels) == [20] * CLASSES
    assert per_class(limited.all.subset(limited.held_out_mask).labels) == [4] * CLASSES
    assert limited.held_out_mask.dtype == torch.bool
    assert len(limited.held_out_mask) == len(limited.all) == 100


def test_images_labels_and_positions_belong_together() -> None:
    limited = draw().all
    assert limited.indices.dtype == limited.labels.dtype == torch.int64
    assert limited.indices.tolist() == sorted(set(limited.indices.tolist()))
    assert torch.equal(limited.labels, LABELS[limited.indices])
    assert limited.images.dtype == torch.uint8
    assert torch.equal(limited.images[:, 0, 0, 0], limited.indices.remainder(256).to(torch.uint8))


def test_draw_is_random_within_a_class() -> None:
    positions = draw().all.indices // CLASSES
    # Neither the first images of each class nor evenly spaced ones.
    assert positions.max() > 60
    assert positions.diff().unique().numel() > 2


def test_draw_depends_on_labels_and_seed_only() -> None:
    first, again, other_seed = draw(), draw(), draw(seed=1)
    assert torch.equal(first.all.indices, again.all.indices)
    assert torch.equal(first.held_out_mask, again.held_out_mask)
    assert not torch.equal(first.all.indices, other_seed.all.indices)
    other_images = torch.zeros(len(LABELS), 1, 3, 3, dtype=torch.uint8)
    other = draw(tiny_dataset(LABELS, class_count=CLASSES, images=other_images))
    assert torch.equal(first.all.indices, other.all.indices)
    assert torch.equal(first.held_out_mask, other.held_out_mask)


def test_held_out_share_does_not_change_what_is_available() -> None:
    assert torch.equal(draw(held_out=0.2).all.indices, draw(held_out=0.5).all.indices)


def test_held_out_images_are_a_random_part() -> None:
    limited = draw(fraction=1, held_out=0.5)
    assert 0.3 < limited.held_out_mask[: len(LABELS) // 2].float().mean() < 0.7
    other = draw(fraction=1, held_out=0.5, seed=1)
    assert not torch.equal(limited.held_out_mask, other.held_out_mask)


def test_smaller_class_gives_what_it_has() -> None:
    labels = torch.cat([LABELS, torch.full((4,), 0)])[LABELS.shape[0] - 100 :]
    labels = torch.cat([labels[labels != 3], torch.full((6,), 3)])
    limited = draw(tiny_dataset(labels, class_count=CLASSES), fraction=0.5, held_out=0.5)
    counts = per_class(limited.all.labels)
    share = round(0.5 * len(labels) / CLASSES)
    assert counts == [share, share, share, 6, share]
    assert per_class(limited.all.labels[limited.held_out_mask])[3] == 3


@cases(
    ("fraction", "held_out", "parts"),
    [
        (0.001, 0.2, ["limited.fraction 0.001", "0 images to train on and 0 held out, of 400"]),
        (0.003, 0.2, ["all classes together 1 image to train on and 0 held out"]),
        (0.025, 0.2, ["class class 0 2 images to train on and 0 held out, of 80"]),
        (0.025, 0.9, ["limited.held_out_fraction 0.9", "0 images to train on and 2 held out"]),
        (0.025, 0.1, ["2 images to train on and 0 held out"]),
    ],
)
def test_part_without_images_is_refused(fraction: float, held_out: float, parts: list[str]) -> None:
    said = one_line(draw, fraction=fraction, held_out=held_out)
    for part in parts:
        assert part in said


def test_few_images_of_many_classes_are_of_all_classes_together() -> None:
    limited = draw(fraction=0.0125, held_out=0.4)
    assert len(limited.all) == 5
    assert limited.held_out_mask.sum() == 2
    assert not torch.equal(draw(fraction=0.0125, seed=1).all.indices, limited.all.indices)


def test_absent_class_is_named() -> None:
    labels = LABELS[LABELS != 3]
    with pytest.raises(InputError, match=r"leaves class class 3 0 images"):
        draw(tiny_dataset(labels, class_count=CLASSES))


def source(count: int) -> InMemoryImages:
    values = torch.arange(count)
    images = values.remainder(256).to(torch.uint8)[:, None, None, None]
    return InMemoryImages(images, values * 3)


@cases(
    ("total", "count", "expected"),
    [(10, 3, [0, 3, 6]), (5, 5, [0, 1, 2, 3, 4]), (3, 8, [0, 1, 2]), (7, 1, [0]), (10, 4, None)],
)
def test_images_are_evenly_spaced(total: int, count: int, expected: list[int] | None) -> None:
    indices = evenly_spaced(source(total), count).indices
    assert indices.tolist() == (expected or [0, 2, 5, 7])
    assert indices.dtype == torch.int64


@pytest.mark.parametrize("count", [100, 250, 400, 500])
@pytest.mark.parametrize("pattern", ["cyclic", "sorted", "shuffled"])
def test_no_pattern_of_the_labels_hides_a_class(pattern: str, count: int) -> None:
    labels = torch.arange(10_000) % 10
    if pattern == "sorted":
        labels = labels.sort().values
    elif pattern == "shuffled":
        labels = labels[torch.randperm(10_000, generator=torch.Generator().manual_seed(0))]
    images = torch.zeros(10_000, 1, 1, 1, dtype=torch.uint8)
    taken = evenly_spaced(InMemoryImages(images, labels), count)
    assert len(taken) == count
    assert taken.indices.tolist() == sorted(set(taken.indices.tolist()))
    assert torch.equal(taken.labels, labels[taken.indices])
    shares = taken.labels.bincount(minlength=10) / count
    if pattern == "shuffled":
        # Chance alone is no reason to leave the field's selection.
        assert taken.indices.tolist() == list(range(0, 10_000, 10_000 // count))
        assert shares.min() > 0.03
    else:
        assert shares.tolist() == pytest.approx([0.1] * 10)
    # All of the split is represented.
    assert taken.indices.max() >= 9_000
    assert taken.indices.min() < 1_000


def test_subset_keeps_rows_together() -> None:
    images = evenly_spaced(source(6), 6)
    part = images.subset(torch.tensor([True, False, False, True, True, False]))
    assert len(part) == 3
    assert part.indices.tolist() == [0, 3, 4]
    assert part.labels.tolist() == [0, 9, 12]
    assert part.images.flatten().tolist() == [0, 3, 4]


def test_content_hash_follows_images_and_labels() -> None:
    images = evenly_spaced(source(6), 6)
    changed = images.images.clone()
    changed[0] += 1
    moved = LabelledImages(images.images, images.labels, images.indices + 5)
    others = [
        LabelledImages(changed, images.labels, images.indices),
        LabelledImages(images.images, images.labels + 1, images.indices),
        LabelledImages(images.images.flip(0), images.labels.flip(0), images.indices.flip(0)),
    ]
    assert moved.content_hash() == images.content_hash()
    assert len({other.content_hash() for other in [images, *others]}) == 4
