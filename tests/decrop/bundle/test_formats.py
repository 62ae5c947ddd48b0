"""Bundles of each format that was ever written, kept as they were, are read as they were meant."""

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
from decrop.errors import InputError
from decrop.files import read_json, write_json
from tests.cases import slow_but
from tests.decrop.bundle.changed_bundle import refusal, renew_checksums
from tests.decrop.bundle.tiny_bundle import write_tiny_bundle, write_tiny_rejecting_bundle

BUNDLES = Path(__file__).parents[2] / "data" / "bundles"
WRITTEN = sorted(path.name for path in BUNDLES.iterdir())


def write_config(bundle: Path, document: Any) -> None:
    write_json(bundle / "config.json", document)
    renew_checksums(bundle)


@pytest.fixture
def bundle_path(tmp_path: Path) -> Path:
    """A copy of the newest to change."""
    return Path(shutil.copytree(BUNDLES / f"format-{FORMAT}", tmp_path / "bundle"))


def test_the_current_format_is_among_them() -> None:
    assert {f"format-{FORMAT}", f"format-{FORMAT}-rejector"} <= set(WRITTEN)


@pytest.mark.parametrize("name", slow_but(WRITTEN, "format-4"))
def test_a_bundle_of_an_earlier_version_predicts_and_certifies_as_recorded(name: str) -> None:
    model = decrop.load(BUNDLES / name)
    number = read_json(BUNDLES / name / "config.json")["format"]
    assert name.split("-")[1] == str(number)
    # None before 7 names its noise.
    noise = model.bundle.config.certification.noise
    assert noise == ("grid" if number >= 7 else "gaussian")
    table = model.bundle.certificates
    indices = torch.from_numpy(table.idx)
    test = load_dataset(model.bundle.config.dataset).test
    images, labels = test.images(indices), test.labels[indices]
    outcome = model.certify(images, labels, indices)
    repeated = (outcome.prediction == table.predict) & (
        np.abs(outcome.radius - table.radius) <= (0 if noise == "grid" else 1e-6)
    )
    if number >= 9 or model.bundle.config.certification.procedure == "fixed":
        assert repeated.all()
        assert (outcome.ending == table.ending).all()
        assert (outcome.samples == table.samples).all()
        assert verify_bundle(model.bundle) == len(indices) == 20
    else:
        # The adaptive procedure has changed since; from the same counts most is as it was.
        assert repeated.sum() >= 12
        with pytest.raises(InputError, match=f"earlier version .bundle format {number}"):
            verify_bundle(model.bundle)
    both = (outcome.prediction >= 0) & (table.predict >= 0)
    assert (outcome.prediction == table.predict)[both].all()
    assert np.abs(outcome.radius - table.radius).max() <= 0.15
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
    for written, name in ((plain, ""), (rejecting, "-rejector")):
        kept = BUNDLES / f"format-{FORMAT}{name}"
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
