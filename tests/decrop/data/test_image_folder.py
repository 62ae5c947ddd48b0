"""Image folders against torchvision's own reader, and every folder that is none."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from decrop._torchvision import torchvision
from decrop.data.image_folder import read_image_folder
from decrop.errors import InputError
from tests.decrop.data.encoded import png, random_pixels

CLASSES = ("big frog", "cat", "class 10", "class 2")


def write_images(split: Path, classes: tuple[str, ...] = CLASSES, count: int = 3) -> None:
    for number, name in enumerate(classes):
        (split / name).mkdir(parents=True)
        for position, pixels in enumerate(random_pixels(count, seed=number)):
            (split / name / f"{position}.png").write_bytes(png(pixels))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with 12 training images of 4 classes, and 2 test images of each of 2."""
    write_images(tmp_path / "train")
    write_images(tmp_path / "test", ("cat", "class 2"), count=2)
    return tmp_path


def test_images_and_classes_are_torchvisions(folder: Path) -> None:
    (folder / "train" / "cat" / "deeper").mkdir()
    (folder / "train" / "cat" / "deeper" / "x.PNG").write_bytes(png(random_pixels(1, seed=9)[0]))
    (folder / "train" / "cat" / "notes.txt").write_text("no image")
    expected = torchvision.datasets.ImageFolder(folder / "train")
    splits = read_image_folder(folder)
    assert splits.class_names == tuple(expected.classes) == CLASSES
    assert splits.train.labels.tolist() == expected.targets
    assert splits.train.labels.dtype == torch.int64
    images = splits.train.images(torch.arange(len(expected)))
    assert images.shape == (13, 3, 4, 5)
    for image, (reference, _) in zip(images, expected, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(reference))


def test_test_images_are_labelled_by_the_training_classes(folder: Path) -> None:
    test = read_image_folder(folder).test
    assert test.labels.tolist() == [1, 1, 3, 3]
    expected = np.concatenate([random_pixels(2, seed=0), random_pixels(2, seed=1)])
    assert np.array_equal(test.images(torch.arange(4)).permute(0, 2, 3, 1).numpy(), expected)


def test_val_stands_in_for_test(folder: Path) -> None:
    write_images(folder / "val", ("cat",), count=1)
    assert len(read_image_folder(folder).test.labels) == 4
    shutil.rmtree(folder / "test")
    assert read_image_folder(folder).test.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("removed", "message"), [("train", "has no folder train;"), ("test", "no folder test or val;")]
)
def test_missing_split_is_named(folder: Path, removed: str, message: str) -> None:
    shutil.rmtree(folder / removed)
    with pytest.raises(InputError, match=rf"dataset\.path: {folder} .*{message} expected train/"):
        read_image_folder(folder)


@pytest.mark.parametrize("split", ["train", "test"])
def test_split_without_class_folders_is_named(folder: Path, split: str) -> None:
    shutil.rmtree(folder / split)
    (folder / split).mkdir()
    (folder / split / "0.png").write_bytes(png(random_pixels(1)[0]))
    with pytest.raises(InputError, match=rf"{split} holds no class folders; expected"):
        read_image_folder(folder)


@pytest.mark.parametrize("split", ["train", "test"])
def test_class_folder_without_images_is_named(folder: Path, split: str) -> None:
    for file in (folder / split / "cat").iterdir():
        file.rename(file.with_suffix(".dat"))
    with pytest.raises(InputError, match=rf"class folder .*{split}/cat holds no images \(\.jpg"):
        read_image_folder(folder)


def test_class_of_the_test_split_only_is_named(folder: Path) -> None:
    (folder / "test" / "cat").rename(folder / "test" / "tiger")
    with pytest.raises(InputError, match=r"train has no class folder tiger, but .*test has"):
        read_image_folder(folder)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no image", "is not a readable image"),
        (png(random_pixels(1)[0, :3]), "has the shape 3x3x5, but the first .* 3x4x5"),
        (png(random_pixels(1, channels=1)[0]), "has the shape 1x4x5, but the first .* 3x4x5"),
    ],
    ids=["unreadable", "size", "channels"],
)
def test_unusable_file_is_named(folder: Path, split: str, content: bytes, message: str) -> None:
    (folder / split / "class 2" / "1.png").write_bytes(content)
    splits = read_image_folder(folder)
    source = {"train": splits.train, "test": splits.test}[split]
    bad = len(source.labels) - (2 if split == "train" else 1)
    source.images(torch.arange(bad))
    with pytest.raises(InputError, match=rf"dataset\.path: .*{split}/class 2/1\.png {message}"):
        source.images(torch.tensor([bad]))


def test_file_that_vanished_is_named(folder: Path) -> None:
    train = read_image_folder(folder).train
    (folder / "train" / "cat" / "1.png").unlink()
    with pytest.raises(InputError, match=r"cat/1\.png does not exist"):
        train.images(torch.arange(12))


def test_linked_class_folders_are_followed(folder: Path) -> None:
    elsewhere = folder / "elsewhere"
    (folder / "train" / "cat").rename(elsewhere)
    (folder / "train" / "cat").symlink_to(elsewhere)
    assert len(read_image_folder(folder).train.labels) == 12


@pytest.mark.timeout(20)
def test_links_in_circles_are_followed_once(folder: Path) -> None:
    cat = folder / "train" / "cat"
    expected = len(read_image_folder(folder).train.labels)
    for name in ("round", "and round"):
        (cat / name).symlink_to(cat)
    # To another class, and to all of them.
    (cat / "to split").symlink_to(folder / "train")
    (cat / "to frogs").symlink_to(folder / "train" / "class 2")
    (cat / "again.png").symlink_to(cat / "0.png")
    with pytest.warns(UserWarning, match=r"skipped train/cat/and round, .* \(7 in all\)") as told:
        train = read_image_folder(folder).train
    assert len(told) == 1
    assert train.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert len(train.labels) == expected


def test_what_is_hidden_or_a_systems_is_no_class_and_no_image(folder: Path) -> None:
    expected = read_image_folder(folder)
    for split in ("train", "test"):
        write_images(folder / split, (".ipynb_checkpoints", "__MACOSX", "@eaDir"), count=1)
        write_images(folder / split / "cat", ("@eaDir", ".thumbnails"), count=1)
        (folder / split / "cat" / "._0.png").write_bytes(b"of macOS")
        (folder / split / "cat" / ".DS_Store").write_bytes(b"of macOS")
    with pytest.warns(
        UserWarning, match=r"skipped train/\.ipynb_checkpoints, .* \(12 in all\)"
    ) as told:
        found = read_image_folder(folder)
    assert len(told) == 1
    assert found.class_names == expected.class_names
    assert found.train.labels.tolist() == expected.train.labels.tolist()
    assert found.test.labels.tolist() == expected.test.labels.tolist()


@pytest.mark.timeout(20)
def test_an_image_that_is_a_pipe_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "train" / "cat" / "9.png")
    train = read_image_folder(folder).train
    with pytest.raises(InputError, match=r"9\.png is a pipe, not a regular file"):
        train.images(torch.arange(len(train.labels)))
