"""Whatever is wrong with a bundle is said in one line that names the file."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import decrop
from decrop.files import read_json, write_json
from tests.decrop.bundle.changed_bundle import refusal, renew_checksums, set_in
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
    """A bundle that says nothing twice: the record beside its certificates repeats its settings."""
    path = shutil.copytree(BUNDLES / "format-10", tmp_path / "bundle")
    (path / "certificates.tsv.json").unlink()
    renew_checksums(path)
    return Path(path)


@pytest.mark.parametrize("name", [*READ, "README.md", "checksums.json"])
def test_a_missing_file_is_named(name: str, bundle_path: Path) -> None:
    (bundle_path / name).unlink()
    stated = {"config.json", "checksums.json"}
    assert refusal(bundle_path) == (
        f"{bundle_path / name} does not exist."
        if name in stated
        else f"{bundle_path} is incomplete: {name} is missing."
    )


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
        ("trial.denoiser.source", "rednet", "trial.denoiser.source = 'rednet'"),
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
    path = set_in(bundle_path, key, value)
    message = refusal(bundle_path)
    assert message.startswith(f"{path}: ")
    assert said in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trial.sigma", 1e308),
        ("trial.certification.failure_probability", 0.9999),
        ("trial.certification.max_samples", 10**18),
        ("trial.certification.radius_step", 1e-300),
        ("trial.execution.chunks_per_batch", 10**12),
        ("trial.classifier.input_size", [10**9, 10**9]),
        ("trial.classifier.source", "x" * 9_999),
        ("estimation_samples", 10**18),
        ("result.images", 10**18),
        ("result.image_shape", [1, 10**9, 10**9]),
        ("result.seconds", {str(i): 0 for i in range(10_000)}),
        ("format", 10**400),
        ("trial", {f"k{i}": 0 for i in range(100_000)}),
    ],
)
def test_senseless_settings_are_named_at_once(key: str, value: Any, bundle_path: Path) -> None:
    path = set_in(bundle_path, key, value)
    message = refusal(bundle_path)
    assert message.startswith(f"{path}") and len(message) < 500


@pytest.mark.parametrize(
    "key",
    [
        "seed",
        "sigma",
        "dataset.name",
        "denoiser.source",
        "certification.failure_probability",
        "certification.procedure",
        "execution.chunk_size",
    ],
)
def test_no_default_stands_in_for_what_was_certified(key: str, bundle_path: Path) -> None:
    path = bundle_path / "config.json"
    document = read_json(path)
    *groups, last = key.split(".")
    group = document["trial"]
    for name in groups:
        group = group[name]
    del group[last]
    write_json(path, document)
    renew_checksums(bundle_path)
    assert refusal(bundle_path) == f"{path}: {key} is missing: a bundle states what was used."


@pytest.mark.parametrize("name", [*READ, "checksums.json"])
@pytest.mark.timeout(20)
def test_a_file_without_end_is_not_read(name: str, bundle_path: Path) -> None:
    (bundle_path / name).unlink()
    os.mkfifo(bundle_path / name)
    assert name in refusal(bundle_path)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("config.json", "../elsewhere"),
        ("README.md", "/etc/hostname"),
        ("classifier", "../elsewhere"),
        ("history.json", "history.json"),
        ("checksums.json", "../elsewhere"),
    ],
)
def test_links_out_of_the_bundle_are_not_followed(
    name: str, target: str, bundle_path: Path
) -> None:
    link = bundle_path / name
    shutil.move(link, bundle_path.parent / "elsewhere")
    link.symlink_to(target)
    assert name in refusal(bundle_path)


def test_a_revision_in_the_hubs_cache_is_a_bundle(bundle_path: Path, tmp_path: Path) -> None:
    revision = tmp_path / "models--me--mine" / "snapshots" / "1"
    blobs = tmp_path / "models--me--mine" / "blobs"
    revision.parent.mkdir(parents=True)
    shutil.move(bundle_path, revision)
    shutil.move(revision / "history.json", blobs)
    (revision / "history.json").symlink_to("../../blobs")
    decrop.load(revision)
    (revision / "README.md").unlink()
    (revision / "README.md").symlink_to("/etc/hostname")
    assert "README.md" in refusal(revision)


@pytest.mark.parametrize(
    "name", ["../config.json", "/etc/hostname", "", ".", "a\0b", "a\nb", "x" * 300]
)
def test_names_outside_the_bundle_are_refused(name: str, bundle_path: Path) -> None:
    path = bundle_path / "checksums.json"
    write_json(path, read_json(path) | {name: "0" * 64})
    assert str(bundle_path) in refusal(bundle_path)


def test_a_weak_guarantee_is_mentioned_where_it_is_loaded(bundle_path: Path) -> None:
    set_in(bundle_path, "trial.certification.failure_probability", 0.3)
    with pytest.warns(UserWarning, match="up to 30% of all certificates may be wrong"):
        decrop.load(bundle_path)


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
        ("class_names", ["one", "one"], "names of classes must differ, but two are 'one'"),
        ("class_names", ["one", ""], "names of classes must be printable"),
        ("class_names", ["one", "\x1b[31m"], "names of classes must be printable"),
        ("class_names", [str(i) for i in range(200_000)], "class_names"),
        ("class_names", [str(i) for i in range(90_000)], "does not fit small_cnn"),
        ("input_size", [10**6, 10**6], "input_size"),
        ("architecture", "x" * 9_999, "architecture"),
        ("class_names", ["one", "two"], "does not fit small_cnn"),
        ("hash", 5, "hash = 5"),
        ("hash", "f" * 64, "recorded is ffffffffffff"),
        ("unheard", 1, "unheard is not a setting"),
    ],
)
def test_wrong_descriptions_of_the_classifier_are_named(
    key: str, value: Any, said: str, bundle_path: Path
) -> None:
    path = set_in(bundle_path, key, value, "classifier/classifier.json")
    message = refusal(bundle_path)
    assert str(path.parent) in message
    assert said in message


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("noise.0.bias", None, "it misses noise.0.bias"),
        ("noise.9.bias", torch.zeros(1), "it has the unknown key noise.9.bias"),
        ("noise.0.bias", torch.zeros(5), "noise.0.bias has the shape (5,), expected (4,)"),
        (
            "noise.0.bias",
            torch.zeros(4, dtype=torch.int8),
            "noise.0.bias is of type int8, expected float32",
        ),
        ("noise.0.bias", torch.full((4,), torch.nan), "noise.0.bias holds NaN or infinity"),
    ],
)
def test_weights_that_do_not_fit_the_denoiser_are_named(
    name: str, tensor: Tensor | None, said: str, bundle_path: Path
) -> None:
    path = bundle_path / "denoiser.safetensors"
    weights = {**load_file(path), name: tensor}
    save_file({key: value for key, value in weights.items() if value is not None}, path)
    renew_checksums(bundle_path)
    message = refusal(bundle_path)
    assert message.startswith(f"{path} ") and said in message


def test_certificates_without_a_row_are_named(bundle_path: Path) -> None:
    path = bundle_path / "certificates.tsv"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    renew_checksums(bundle_path)
    assert refusal(bundle_path) == f"{path} holds no certificate."


@pytest.mark.parametrize("records", [{}, [1], "text"])
def test_a_history_that_is_none_is_named(records: Any, bundle_path: Path) -> None:
    write_json(bundle_path / "history.json", records)
    renew_checksums(bundle_path)
    expected = f"{bundle_path / 'history.json'} is not a JSON list of objects"
    assert refusal(bundle_path).startswith(expected)
