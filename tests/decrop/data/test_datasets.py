"""Registered datasets: digits as they are in scikit-learn, CIFAR-10 from every kind of folder."""

import io
import pickle
import urllib.error
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from decrop._torchvision import torchvision
from decrop.config import DatasetName, DatasetSettings
from decrop.data import datasets
from decrop.data.datasets import Dataset, load_dataset
from decrop.data.sources import ImageSource
from decrop.errors import InputError

# CIFAR-10 has to be downloaded.
OFFLINE = ["digits"]


def opened(name: str, path: Path | None = None) -> Dataset:
    return load_dataset(
        DatasetSettings.model_validate({"name": name, "path": None if path is None else str(path)})
    )


def all_images(source: ImageSource) -> torch.Tensor:
    return source.images(torch.arange(len(source.labels)))


def test_registry_has_what_the_schema_allows() -> None:
    assert set(datasets._DATASETS) == set(get_args(DatasetName))


@pytest.mark.parametrize("name", OFFLINE)
def test_splits_are_images_with_classes(name: str) -> None:
    dataset, again = opened(name), opened(name)
    assert dataset.name == name
    assert dataset.channels == len(dataset.mean) == len(dataset.std)
    for split, repeated in ((dataset.train, again.train), (dataset.test, again.test)):
        images = all_images(split)
        assert images.dtype == torch.uint8
        assert images.shape[:2] == (len(split.labels), dataset.channels)
        assert split.labels.dtype == torch.int64
        assert split.labels.unique().tolist() == list(range(dataset.class_count))
        assert torch.equal(images, all_images(repeated))
        assert torch.equal(split.labels, repeated.labels)


@pytest.mark.parametrize("name", OFFLINE)
def test_statistics_are_those_of_the_training_pixels(name: str) -> None:
    dataset = opened(name)
    pixels = all_images(dataset.train).float().transpose(0, 1).flatten(1) / 255
    assert dataset.mean == pytest.approx(pixels.mean(1).tolist(), abs=0.005)
    assert dataset.std == pytest.approx(pixels.std(1).tolist(), abs=0.005)


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


def cifar_pixels(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def write_batches(folder: Path, first_label: int = 0) -> None:
    """Write torchvision's layout, two images a file; image i of batch b has class 2b + i mod 10."""
    batches = folder / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        labels = [(2 * number + i) % 10 + first_label for i in range(2)]
        content = {"data": cifar_pixels(2, number).reshape(2, -1), "labels": labels}
        (batches / name).write_bytes(pickle.dumps(content))
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": list("0123456789")}))


@pytest.fixture
def any_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision accept files that exist, for their checksums are those of the real ones."""
    monkeypatch.setattr(
        torchvision.datasets.cifar, "check_integrity", lambda path, md5: Path(path).exists()
    )


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


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset\.path: .*none is not a folder"):
        opened("cifar10", tmp_path / "none")
    with pytest.raises(InputError, match="holds neither"):
        opened("cifar10", tmp_path)


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
    "failure",
    [urllib.error.URLError("no route to host"), OSError("disk full"), TimeoutError("timed out")],
)
def test_failed_download_asks_for_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: OSError
) -> None:
    def download(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(datasets, "_DOWNLOAD_FOLDER", tmp_path)
    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", download)
    with pytest.raises(InputError) as error:
        opened("cifar10")
    assert "could not be downloaded" in str(error.value)
    assert "--set dataset.path=PATH" in str(error.value)
    assert str(failure) in str(error.value)


def write_parquet(folder: Path, split: str, labels: list[int]) -> None:
    files = []
    for pixels in cifar_pixels(len(labels), seed=len(split)):
        file = io.BytesIO()
        Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "PNG")
        files.append(file.getvalue())
    columns = {"image": pa.array(files, pa.binary()), "label": pa.array(labels, pa.int64())}
    pq.write_table(pa.table(columns), folder / f"{split}.parquet")


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


@pytest.mark.parametrize(("labels", "limits"), [([0, 10], "0 to 10"), ([-1, 3], "-1 to 3")])
@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_out_of_range_are_refused(
    tmp_path: Path, split: str, labels: list[int], limits: str
) -> None:
    for name in ("train", "test"):
        write_parquet(tmp_path, name, labels if name == split else [1])
    with pytest.raises(InputError, match=rf"range from {limits}; CIFAR-10 has the classes 0 to 9"):
        opened("cifar10", tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
def test_split_without_images_is_refused(tmp_path: Path, split: str) -> None:
    for name in ("train", "test"):
        write_parquet(tmp_path, name, [] if name == split else [1])
    with pytest.raises(InputError, match=rf"dataset\.path: .*{split}\.parquet holds no images"):
        opened("cifar10", tmp_path)
