"""Whatever is wrong with a bundle is said in one line that names the file."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import decrop
from decrop.documents import set_dotted
from decrop.errors import InputError
from decrop.files import read_json, sha256_of_file, write_json
from tests.decrop.bundle.test_formats import BUNDLES

GARBAGE = {
    "empty": b"",
    "zeros": bytes(100),
    "not UTF-8": b"\xff\xfe\xfd",
    "cut off": b'{"format": 3, "trial": {',
    "a number": b"7",
    "text": b'"text"',
    "nested": b"[" * 100_000,
}
READ = [
    "config.json",
    "denoiser.safetensors",
    "certificates.tsv",
    "history.json",
    "classifier/classifier.json",
    "classifier/weights.safetensors",
]


@pytest.fixture
def bundle_path(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLES / "format-3", tmp_path / "bundle"))


def renew_checksums(bundle: Path) -> None:
    """Whoever changes a bundle on purpose changes its checksums too."""
    checksums = read_json(bundle / "checksums.json")
    write_json(
        bundle / "checksums.json", {name: sha256_of_file(bundle / name) for name in checksums}
    )


def refusal(bundle: Path) -> str:
    with pytest.raises(InputError) as error:
        decrop.load(bundle)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", [*READ, "README.md", "checksums.json"])
def test_a_missing_file_is_named(name: str, bundle_path: Path) -> None:
    (bundle_path / name).unlink()
    assert name in refusal(bundle_path)


@pytest.mark.parametrize("name", [*READ, "checksums.json"])
@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_named(name: str, garbage: str, bundle_path: Path) -> None:
    (bundle_path / name).write_bytes(GARBAGE[garbage])
    assert name in refusal(bundle_path)
    if name != "checksums.json":
        renew_checksums(bundle_path)
        assert str(bundle_path / name) in refusal(bundle_path)


@pytest.mark.parametrize("name", [*READ, "checksums.json"])
def test_a_folder_in_place_of_a_file_is_named(name: str, bundle_path: Path) -> None:
    (bundle_path / name).unlink()
    (bundle_path / name).mkdir()
    assert name in refusal(bundle_path)


def test_a_file_in_place_of_the_bundle_is_named(bundle_path: Path) -> None:
    assert refusal(bundle_path / "README.md") == (
        f"{bundle_path / 'README.md' / 'config.json'} does not exist."
    )


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("trial", None, "trial"),
        ("trial", [], "trial"),
        ("trial.sigma", "much", "trial.sigma = 'much'"),
        ("trial.sigma", -1, "trial.sigma = -1"),
        ("trial.denoiser.architecture", "rednet", "trial.denoiser.architecture = 'rednet'"),
        ("trial.denoiser.depth", 10**9, "trial.denoiser.depth = 1000000000"),
        ("trial.unheard", 1, "trial.unheard is not a setting"),
        ("trial.execution.device", "tpu", "trial.execution.device = 'tpu'"),
        ("unheard", 1, "unheard is not a setting"),
        ("estimation_samples", 0, "estimation_samples = 0"),
        ("estimation_samples", "many", "estimation_samples = 'many'"),
        ("result", [], "result"),
        ("result", {}, "result.split is missing"),
        ("result.split", "train", "result.split = 'train'"),
        ("result.images", "all", "result.scores.images = 'all'"),
        ("result.certified_accuracy", [], "result.scores.certified_accuracy"),
        ("result.hashes", {"classifier": 1}, "result.hashes.classifier = 1"),
        ("result.image_shape", [1, 8], "result.image_shape"),
        ("result.image_shape", [3, 8, 8], "image_shape = (3, 8, 8)"),
        ("result.image_shape", [1, 0, 8], "image_shape[1] = 0"),
        ("result.hashes", {"classifier": "f"}, "result.hashes.limited_data is missing"),
        ("result.hashes.classifier", "f" * 64, "result.hashes.classifier = ffffffffffff…"),
        ("trial.execution.chunks_per_batch", "auto", "chunks_per_batch = 'auto'"),
        ("trial.execution.device", "auto", "device = 'auto'"),
        ("trial.execution.precision", "auto", "precision = 'auto'"),
    ],
)
def test_wrong_settings_are_named(key: str, value: Any, said: str, bundle_path: Path) -> None:
    path = bundle_path / "config.json"
    write_json(path, set_dotted(read_json(path), key, value))
    renew_checksums(bundle_path)
    message = refusal(bundle_path)
    assert message.startswith(f"{path}: ")
    assert said in message


@pytest.mark.parametrize("key", ["trial", "estimation_samples", "result"])
def test_missing_settings_are_named(key: str, bundle_path: Path) -> None:
    path = bundle_path / "config.json"
    document = read_json(path)
    del document[key]
    write_json(path, document)
    renew_checksums(bundle_path)
    assert refusal(bundle_path).startswith(f"{path}: {key}")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("architecture", "vgg", "architecture = 'vgg'"),
        ("architecture", "cifar_resnet20", "does not fit cifar_resnet20"),
        ("mean", "grey", "mean = 'grey'"),
        ("mean", [], "mean = []"),
        ("mean", [0.1, 0.2], "equally many channels"),
        ("mean", [0.25], "content hash"),
        ("std", [0], "std[0] = 0"),
        ("class_names", "0123456789", "class_names"),
        ("class_names", ["one"], "class_names"),
        ("class_names", ["one", "two"], "does not fit small_cnn"),
        ("hash", 5, "hash = 5"),
        ("hash", "f" * 64, "recorded is ffffffffffff"),
        ("unheard", 1, "unheard is not a setting"),
    ],
)
def test_wrong_descriptions_of_the_classifier_are_named(
    key: str, value: Any, said: str, bundle_path: Path
) -> None:
    path = bundle_path / "classifier" / "classifier.json"
    write_json(path, read_json(path) | {key: value})
    renew_checksums(bundle_path)
    message = refusal(bundle_path)
    assert str(path.parent) in message
    assert said in message


def without_a_key(weights: dict[str, torch.Tensor]) -> None:
    del weights["noise.0.bias"]


def with_a_key_more(weights: dict[str, torch.Tensor]) -> None:
    weights["noise.9.bias"] = torch.zeros(1)


def with_another_shape(weights: dict[str, torch.Tensor]) -> None:
    weights["noise.0.bias"] = torch.zeros(5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_a_key, "it misses noise.0.bias"),
        (with_a_key_more, "it has the unknown key noise.9.bias"),
        (with_another_shape, "noise.0.bias has the shape (5,), expected (4,)"),
    ],
)
def test_weights_that_do_not_fit_the_denoiser_are_named(
    change: Callable[[dict[str, torch.Tensor]], None], said: str, bundle_path: Path
) -> None:
    path = bundle_path / "denoiser.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    renew_checksums(bundle_path)
    assert refusal(bundle_path).startswith(f"{path} does not fit dncnn: {said}")


def test_certificates_without_a_row_are_named(bundle_path: Path) -> None:
    path = bundle_path / "certificates.tsv"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    renew_checksums(bundle_path)
    assert refusal(bundle_path) == f"{path} holds no certificate."


@pytest.mark.parametrize("records", [{}, [1], "text"])
def test_a_history_that_is_none_is_named(records: Any, bundle_path: Path) -> None:
    write_json(bundle_path / "history.json", records)
    renew_checksums(bundle_path)
    expected = f"{bundle_path / 'history.json'} must hold a list of records, one an epoch."
    assert refusal(bundle_path) == expected
