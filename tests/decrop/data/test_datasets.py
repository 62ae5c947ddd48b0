"""Registered datasets: each kind of folder, and what is wrong with others."""

import pickle
import urllib.error
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.datasets import load_digits

from decrop._torchvision import torchvision
from decrop.config import DatasetSettings, LimitedDataSettings
from decrop.config.data import DATASETS
from decrop.data import datasets
from decrop.data.datasets import Dataset, load_dataset
from decrop.data.images import ImageSource
from decrop.data.limited import limited_data
from decrop.errors import InputError
from tests.decrop.data.encoded import png, random_pixels
from tests.refusals import one_line


def opened(name: str, path: Path | None = None) -> Dataset:
    return load_dataset(
        DatasetSettings.model_validate({"name": name, "path": None if path is None else str(path)})
    )


def all_images(source: ImageSource) -> torch.Tensor:
    return source.images(torch.arange(len(source.labels)))


def cifar_pixels(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def write_batches(folder: Path, images: int = 2) -> None:
    """Write torchvision's layout of CIFAR-10, some images a file, of classes in turn."""
    batches = folder / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        labels = [(images * number + i) % 10 for i in range(images)]
        content = {"data": cifar_pixels(images, number).reshape(images, -1), "labels": labels}
        (batches / name).write_bytes(pickle.dumps(content))
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": list("0123456789")}))


def write_idx(folder: Path) -> None:
    """Write torchvision's layout of Fashion-MNIST, 20 and 10 images 28x28 of classes in turn."""
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for split, count in (("train", 20), ("t10k", 10)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for kind, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            # Two zero bytes, the type (8: unsigned bytes), the number of axes, their lengths.
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
            (raw / f"{split}-{kind}-ubyte").write_bytes(header + values.tobytes())


def write_parquet(
    folder: Path,
    split: str,
    labels: list[Any],
    pixels: np.ndarray | None = None,
    metadata: dict[str, str] | None = None,
) -> None:
    if pixels is None:
        pixels = cifar_pixels(len(labels), seed=len(split)).transpose(0, 2, 3, 1)
    columns = {
        "image": pa.array([png(image) for image in pixels], pa.binary()),
        "label": pa.array(labels, pa.string() if str in map(type, labels) else pa.int64()),
    }
    table = pa.table(columns).replace_schema_metadata(metadata)
    pq.write_table(table, folder / f"{split}.parquet")


def write_grey_parquet(folder: Path) -> None:
    for split, count in (("train", 12), ("test", 6)):
        pixels = random_pixels(count, channels=1, seed=count)
        write_parquet(folder, split, [i % 3 for i in range(count)], pixels)


def write_image_folder(folder: Path) -> None:
    for split, count in (("train", 6), ("test", 2)):
        for number, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            for position, pixels in enumerate(random_pixels(count, seed=10 * number + count)):
                (folder / split / name / f"{position}.png").write_bytes(png(pixels))


# How to write each dataset in small, and the shape of its images; without a writer it is whole.
SMALL: dict[str, tuple[Callable[[Path], None] | None, tuple[int, int, int]]] = {
    "digits": (None, (1, 8, 8)),
    "cifar10": (partial(write_batches, images=4), (3, 32, 32)),
    "fashion_mnist": (write_idx, (1, 28, 28)),
    "parquet": (write_grey_parquet, (1, 4, 5)),
    "image_folder": (write_image_folder, (3, 4, 5)),
}


@pytest.fixture
def any_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision accept files that exist, for their checksums are those of the real ones."""
    monkeypatch.setattr(
        torchvision.datasets.cifar, "check_integrity", lambda path, md5: Path(path).exists()
    )


def small(name: str, folder: Path) -> Dataset:
    write, _ = SMALL[name]
    if write is None:
        return opened(name)
    folder.mkdir(exist_ok=True)
    write(folder)
    return opened(name, folder)


def test_every_registered_dataset_is_tried() -> None:
    assert set(DATASETS) == set(SMALL)


@pytest.mark.usefixtures("any_checksum")
@pytest.mark.parametrize("name", SMALL)
def test_splits_are_images_with_classes(name: str, tmp_path: Path) -> None:
    dataset, again = small(name, tmp_path / "a"), small(name, tmp_path / "b")
    assert dataset.name == name
    assert len(dataset.class_names) == len(set(dataset.class_names)) == dataset.class_count
    of_ones_own = name in ("parquet", "image_folder")
    for statistics in (dataset.mean, dataset.std):
        assert statistics is None if of_ones_own else len(statistics or ()) == dataset.channels
    for split, repeated in ((dataset.train, again.train), (dataset.test, again.test)):
        images = all_images(split)
        assert images.dtype == torch.uint8
        assert images.shape == (len(split.labels), *SMALL[name][1])
        assert images.shape[1:] == split.shape
        assert images.shape[1] == dataset.channels
        assert split.labels.dtype == torch.int64
        assert set(split.labels.tolist()) <= set(range(dataset.class_count))
        assert torch.equal(images, all_images(repeated))
        assert torch.equal(split.labels, repeated.labels)
        some = torch.tensor([len(images) - 1, 0])
        assert torch.equal(split.images(some), images[some])
    assert dataset.train.labels.unique().tolist() == list(range(dataset.class_count))
    assert not torch.equal(all_images(dataset.train)[:2], all_images(dataset.test)[:2])


@pytest.mark.usefixtures("any_checksum")
@pytest.mark.parametrize("name", SMALL)
def test_limited_data_may_be_the_whole_training_split(name: str, tmp_path: Path) -> None:
    dataset = small(name, tmp_path)
    limited = limited_data(dataset, LimitedDataSettings(fraction=1, held_out_fraction=0.5))
    held_out = limited.all.labels[limited.held_out_mask].bincount(minlength=dataset.class_count)
    trained_on = limited.all.labels[~limited.held_out_mask].bincount(minlength=dataset.class_count)
    assert (held_out - trained_on).abs().max() <= 1
    assert torch.equal(limited.all.images, dataset.train.images(limited.all.indices))
    # Digits have a few images more of some classes than of others.
    assert len(limited.all) == len(dataset.train.labels) or name == "digits"


def test_statistics_of_digits_are_those_of_the_training_pixels() -> None:
    dataset = opened("digits")
    pixels = all_images(dataset.train).float().transpose(0, 1).flatten(1) / 255
    assert dataset.mean == pytest.approx(pixels.mean(1).tolist(), abs=0.005)
    assert dataset.std == pytest.approx(pixels.std(1).tolist(), abs=0.005)


@pytest.mark.parametrize("name", ["parquet", "image_folder"])
def test_data_of_ones_own_need_a_path(name: str) -> None:
    with pytest.raises(InputError, match=rf"dataset\.path: {name} needs .* --set dataset\.path="):
        opened(name)


@pytest.mark.parametrize("name", [name for name, (write, _) in SMALL.items() if write])
def test_missing_folder_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset\.path: .*none is not a folder"):
        opened(name, tmp_path / "none")


def test_digits_are_scikit_learns_each_once() -> None:
    digits = load_digits()
    expected = Counter(
        (tuple(np.rint(image.flatten() * 255 / 16).astype(int)), int(label))
        for image, label in zip(digits.images, digits.target, strict=True)
    )
    dataset = opened("digits")
    found: Counter[tuple[tuple[int, ...], int]] = Counter()
    for split in (dataset.train, dataset.test):
        images = all_images(split)
        assert images.shape[1:] == (1, 8, 8)
        assert (images.min(), images.max()) == (0, 255)
        found.update(
            (tuple(image.flatten().tolist()), int(label))
            for image, label in zip(images, split.labels, strict=True)
        )
    # So the splits are disjoint, too.
    assert found == expected
    assert len(dataset.test.labels) == 500


def test_digits_take_no_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset\.path: digits .* take no path, got"):
        opened("digits", tmp_path)


def assert_is_written(dataset: Dataset) -> None:
    expected = np.concatenate([cifar_pixels(2, number) for number in range(5)])
    assert np.array_equal(all_images(dataset.train).numpy(), expected)
    assert dataset.train.labels.tolist() == list(range(10))
    assert np.array_equal(all_images(dataset.test).numpy(), cifar_pixels(2, 5))
    assert dataset.test.labels.tolist() == [0, 1]
    assert dataset.train.labels.dtype == torch.int64


@pytest.mark.usefixtures("any_checksum")
def test_torchvisions_folder_is_read(tmp_path: Path) -> None:
    write_batches(tmp_path)
    dataset = opened("cifar10", tmp_path)
    assert_is_written(dataset)
    assert dataset.class_names[3] == "cat"
    assert (dataset.class_count, dataset.channels) == (10, 3)


@pytest.mark.usefixtures("any_checksum")
def test_incomplete_folder_is_refused(tmp_path: Path) -> None:
    write_batches(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(InputError, match=r"neither train\.parquet .* nor an intact cifar-10-batch"):
        opened("cifar10", tmp_path)


def test_corrupt_folder_is_refused(tmp_path: Path) -> None:
    write_batches(tmp_path)  # its checksums are not CIFAR-10's
    with pytest.raises(InputError, match="intact cifar-10-batches-py"):
        opened("cifar10", tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_folder_of_something_else_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds neither train\.parquet .* as torchvision stores"):
        opened(name, tmp_path)


def test_fashion_mnist_is_read(tmp_path: Path) -> None:
    write_idx(tmp_path)
    dataset = opened("fashion_mnist", tmp_path)
    for split, count in ((dataset.train, 20), (dataset.test, 10)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        assert np.array_equal(all_images(split)[:, 0].numpy(), pixels)
        assert split.labels.tolist() == [label % 10 for label in range(count)]
    assert dataset.class_names == tuple(torchvision.datasets.FashionMNIST.classes)


@pytest.mark.parametrize("kept", [None, 0, 10, 3000])
def test_damaged_fashion_mnist_is_refused(tmp_path: Path, kept: int | None) -> None:
    write_idx(tmp_path)
    file = tmp_path / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte"
    content = file.read_bytes()
    file.unlink()
    if kept is not None:
        file.write_bytes(content[:kept])
    with pytest.raises(InputError, match="nor an intact FashionMNIST/raw folder"):
        opened("fashion_mnist", tmp_path)


@pytest.mark.usefixtures("any_checksum")
def test_without_a_path_cifar10_is_downloaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads: list[str] = []

    def download(url: str, root: str, **_: Any) -> None:
        downloads.append(url)
        write_batches(Path(root))

    monkeypatch.setattr(datasets, "_DOWNLOAD_FOLDER", tmp_path)
    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", download)
    for _ in range(2):
        assert_is_written(opened("cifar10"))
    assert downloads == [torchvision.datasets.CIFAR10.url]


@pytest.mark.parametrize(
    ("name", "module", "failure"),
    [
        ("cifar10", torchvision.datasets.cifar, urllib.error.URLError("no route to host")),
        ("fashion_mnist", torchvision.datasets.mnist, OSError("disk full")),
    ],
)
def test_failed_download_asks_for_a_copy(
    name: str, module: Any, failure: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(datasets, "_DOWNLOAD_FOLDER", tmp_path)
    monkeypatch.setattr(module, "download_and_extract_archive", download)
    message = one_line(opened, name)
    assert "could not be downloaded" in message
    assert "--set dataset.path=PATH" in message and "--dataset-path PATH" in message
    assert str(failure) in message


def test_parquet_folder_is_read(tmp_path: Path) -> None:
    write_parquet(tmp_path, "train", [9, 0, 3])
    write_parquet(tmp_path, "test", [4])
    dataset = opened("cifar10", tmp_path)
    assert np.array_equal(all_images(dataset.train).numpy(), cifar_pixels(3, seed=5))
    assert np.array_equal(all_images(dataset.test).numpy(), cifar_pixels(1, seed=4))
    assert dataset.train.labels.tolist() == [9, 0, 3]


@pytest.mark.parametrize("present", ["train", "test"])
def test_missing_split_is_named(tmp_path: Path, present: str) -> None:
    write_parquet(tmp_path, present, [1])
    absent = {"train": "test", "test": "train"}[present]
    with pytest.raises(InputError, match=rf"{absent}\.parquet does not exist"):
        opened("cifar10", tmp_path)


@pytest.mark.parametrize(("labels", "wrong"), [([0, 10], 10), ([-1, 3], -1)])
@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_out_of_range_are_refused(
    tmp_path: Path, split: str, labels: list[int], wrong: int
) -> None:
    for name in ("train", "test"):
        write_parquet(tmp_path, name, labels if name == split else [1])
    with pytest.raises(InputError, match=rf"{split}.* label {wrong}, .* 10 classes, 0 to 9"):
        opened("cifar10", tmp_path)


@pytest.mark.parametrize(("name", "channels"), [("cifar10", 1), ("fashion_mnist", 3)])
def test_images_of_other_channels_are_refused(tmp_path: Path, name: str, channels: int) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path, split, [0], random_pixels(1, channels=channels))
    with pytest.raises(InputError, match=rf"images of .* have {channels} channels?; .* has [13]\."):
        opened(name, tmp_path)


NAMES = {"classes": "cat,dog"}


@pytest.mark.parametrize(
    ("train", "test", "names"),
    [
        (None, None, ("0", "1")),
        (NAMES, NAMES, ("cat", "dog")),
        (NAMES, None, ("cat", "dog")),
        (None, NAMES, ("cat", "dog")),
    ],
)
def test_classes_of_parquet_files_have_names_or_numbers(
    tmp_path: Path,
    train: dict[str, str] | None,
    test: dict[str, str] | None,
    names: tuple[str, ...],
) -> None:
    write_parquet(tmp_path, "train", [0, 1], metadata=train)
    write_parquet(tmp_path, "test", [0], metadata=test)
    assert opened("parquet", tmp_path).class_names == names


@pytest.mark.parametrize(
    ("labels", "test_labels", "classes", "names"),
    [
        ([7, 3, 12, 3], [12, 3], None, ("3", "7", "12")),
        (["dog", "cat", "emu", "cat"], ["emu", "cat"], None, ("cat", "dog", "emu")),
        (["dog", "cat", "emu", "cat"], [2, 1], "emu,cat,dog", ("emu", "cat", "dog")),
    ],
)
def test_other_labels_are_classes_in_their_order_or_that_of_their_names(
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
    labels: list[Any],
    test_labels: list[Any],
    classes: str | None,
    names: tuple[str, ...],
) -> None:
    metadata = None if classes is None else {"classes": classes}
    write_parquet(tmp_path, "train", labels, random_pixels(4), metadata)
    write_parquet(tmp_path, "test", test_labels, random_pixels(2), metadata)
    dataset = opened("parquet", tmp_path)
    assert dataset.class_names == names
    assert [names[label] for label in dataset.train.labels] == [str(label) for label in labels]
    assert dataset.test.labels.tolist() == ([2, 1] if classes else [2, 0])
    assert len(recwarn) == (classes is None)


def test_texts_and_numbers_are_not_mixed_where_no_names_tell(tmp_path: Path) -> None:
    write_parquet(tmp_path, "train", ["dog", "cat"], random_pixels(2))
    write_parquet(tmp_path, "test", [1], random_pixels(1))
    with (
        pytest.warns(UserWarning, match=r"classes 0 to 1 in this order: \['cat', 'dog'\]"),
        pytest.raises(InputError, match="the label 1, which is none of the 2 classes, 'cat' to"),
    ):
        opened("parquet", tmp_path)


def test_parquet_files_with_different_class_names_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path, "train", [0, 1], metadata=NAMES)
    write_parquet(tmp_path, "test", [0, 1], metadata={"classes": "dog,cat"})
    with pytest.raises(InputError, match=r"train\.parquet and test\.parquet .* different classes"):
        opened("parquet", tmp_path)


@pytest.mark.parametrize("metadata", [None, NAMES])
def test_test_label_of_no_class_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    write_parquet(tmp_path, "train", [0, 1], metadata=metadata)
    write_parquet(tmp_path, "test", [2], metadata=metadata)
    with pytest.raises(InputError, match=r"test\.parquet has the label 2, .* 2 classes"):
        opened("parquet", tmp_path)


def test_test_images_have_the_shape_of_training_images(tmp_path: Path) -> None:
    write_parquet(tmp_path, "train", [0, 1], random_pixels(2))
    write_parquet(tmp_path, "test", [0], cifar_pixels(1, 0).transpose(0, 2, 3, 1))
    dataset = opened("parquet", tmp_path)
    with pytest.raises(InputError, match=r"row 0 of .*test\.parquet has the shape 3x32x32"):
        all_images(dataset.test)


@pytest.mark.parametrize(
    ("labels", "classes", "said"),
    [
        ([-1, 3], None, "2 labels from -1 to 3; labels are texts or numbers of at least 0"),
        ([0, 0], None, "there must be from 2 to 100,000 classes, but there are 1"),
        ([0, 0], "cat", "there must be from 2 to 100,000 classes, but there are 1"),
        ([0, 1], "cat,cat", "names of classes must differ, but two are 'cat'"),
        ([0, 1], "cat,,dog", "names of classes must be printable"),
        ([0, 1], "cat," + "x" * 201, "names of classes must be printable"),
        ([0, 1], "cat,\x1b[31mdog", "names of classes must be printable"),
    ],
)
def test_classes_are_at_least_two_and_differ(
    tmp_path: Path, labels: list[int], classes: str | None, said: str
) -> None:
    for split in ("train", "test"):
        metadata = None if classes is None else {"classes": classes}
        write_parquet(tmp_path, split, labels, random_pixels(2), metadata)
    with pytest.raises(InputError, match=said) as error:
        opened("parquet", tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
