"""Bundles that were written when their format was new are read as they were meant."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import decrop
from decrop.bundle import verify_bundle
from decrop.bundle.layout import FORMAT, OLDEST_FORMAT
from decrop.data.datasets import load_dataset
from decrop.files import read_json, write_json
from tests.decrop.bundle.changed_bundle import refusal, renew_checksums
from tests.decrop.bundle.tiny_bundle import write_tiny_bundle, write_tiny_rejecting_bundle

BUNDLES = Path(__file__).parents[2] / "data" / "bundles"
WRITTEN = sorted(path.name for path in BUNDLES.iterdir())
NEWEST = (f"format-{FORMAT}", f"format-{FORMAT}-rejector")


def write_config(bundle: Path, document: Any) -> None:
    write_json(bundle / "config.json", document)
    renew_checksums(bundle)


@pytest.fixture
def bundle_path(tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(BUNDLES / NEWEST[0], tmp_path / "bundle"))


@pytest.mark.parametrize("name", WRITTEN)
def test_a_kept_bundle_predicts_and_certifies_as_recorded(name: str) -> None:
    model = decrop.load(BUNDLES / name)
    table = model.bundle.certificates
    indices = torch.from_numpy(table.idx)
    test = load_dataset(model.bundle.config.dataset).test
    images, labels = test.images(indices), test.labels[indices]
    outcome = model.certify(images, labels, indices)
    assert (outcome.prediction == table.predict).all()
    assert outcome.radius == pytest.approx(table.radius, abs=1e-9)
    assert (outcome.ending == table.ending).all()
    assert (outcome.samples == table.samples).all()
    assert verify_bundle(model.bundle) == len(indices) == 20
    predicted = model.predict(images, indices=indices)
    surely = table.radius >= 0.2
    assert surely.sum() >= 5
    assert (predicted[surely] == table.predict[surely]).all()
    assert np.mean(predicted == labels.numpy()) > 0.8


@pytest.mark.slow
def test_what_is_written_now_is_of_the_same_files_and_keys(tmp_path: Path) -> None:
    """Whoever changes them changes the format, and keeps a bundle of the last one."""
    plain, rejecting = tmp_path / "plain", tmp_path / "rejecting"
    write_tiny_bundle(plain)
    write_tiny_rejecting_bundle(rejecting, plain)
    for written, name in zip((plain, rejecting), NEWEST, strict=True):
        kept = BUNDLES / name
        files = set(read_json(written / "checksums.json"))
        assert files == set(read_json(kept / "checksums.json"))
        for name in ("config.json", "classifier/classifier.json"):
            assert keys(read_json(written / name)) == keys(read_json(kept / name))


def keys(document: Any, prefix: str = "") -> set[str]:
    if not isinstance(document, dict):
        return {prefix}
    return {key for name in document for key in keys(document[name], f"{prefix}.{name}")}


def test_a_newer_format_asks_for_a_newer_version(bundle_path: Path) -> None:
    # Whatever else it may hold.
    newer = FORMAT + 1
    write_config(bundle_path, {"format": newer, "unheard": "of"})
    message = refusal(bundle_path)
    assert f"of bundle format {newer}, written by a newer decrop" in message
    assert "upgrade decrop" in message


def test_an_older_format_is_to_be_exported_anew(bundle_path: Path) -> None:
    write_config(bundle_path, {"format": OLDEST_FORMAT - 1})
    assert "is no longer read; export it anew" in refusal(bundle_path)


@pytest.mark.parametrize("document", [{}, [1], None, {"format": "3"}, {"format": True}, "text"])
def test_what_is_no_bundle_is_refused(document: Any, bundle_path: Path) -> None:
    write_config(bundle_path, document)
    expected = f"{bundle_path / 'config.json'} is not that of a bundle: it states no format."
    assert refusal(bundle_path) == expected
