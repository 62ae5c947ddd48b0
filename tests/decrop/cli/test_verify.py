"""`decrop verify` says how many certificates are identical, and fails if one is not."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import decrop
from decrop.cli.main import run
from decrop.config import DatasetSettings
from decrop.data.datasets import load_dataset
from decrop.data.limited import take
from decrop.errors import InputError
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json, write_json
from decrop.trial.result import Scores
from tests.commands import decrop as command
from tests.commands import refused
from tests.decrop.bundle.changed_bundle import renew_checksums, set_in
from tests.decrop.digits_trial import TEST_IMAGES


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def forge(
    bundle: Path,
    change: Callable[[CertificateTable], CertificateTable],
    *,
    summary_too: bool = True,
) -> None:
    """Change certificates and all that speaks of them but the card, perhaps not the summary."""
    path, config = bundle / "certificates.tsv", bundle / "config.json"
    table = change(CertificateTable.read_tsv(path))
    table.write(path)
    document = read_json(config)
    if summary_too:
        radii = tuple(document["trial"]["certification"]["radii"])
        document["result"] |= asdict(Scores.of(table, radii))
        assert table.record is not None
        document["result"]["hashes"] |= {
            "certified_images": table.record.hashes["certified_images"]
        }
        document["trial"]["certification"] |= {
            "test_images": table.record.certification.test_images
        }
        write_json(config, document)
    renew_checksums(bundle)


def without_card(bundle: Path) -> None:
    (bundle / "README.md").unlink()
    renew_checksums(bundle)


def with_one_radius(table: CertificateTable) -> CertificateTable:
    """The first image certified for its class, at a radius of its own."""
    first = np.arange(len(table.idx)) == 0
    return replace(
        table,
        predict=np.where(first, table.label, table.predict),
        radius=np.where(first, 0.7654321, table.radius),
    )


def best_half(table: CertificateTable) -> CertificateTable:
    """Without the images of the smaller radii, and the images named by their new content."""
    kept = np.sort(np.argsort(-table.radius, kind="stable")[: len(table.idx) // 2])
    columns = ("idx", "label", "predict", "radius", "seconds", "samples", "ending", "selected")
    images = take(
        load_dataset(DatasetSettings(name="digits")).test, torch.from_numpy(table.idx[kept])
    )
    assert table.record is not None
    hashes = table.record.hashes | {"certified_images": images.content_hash()}
    record = table.record.model_copy(update={"images": len(kept), "hashes": hashes})
    return replace(table, record=record, **{name: getattr(table, name)[kept] for name in columns})


def in_settings_too(table: CertificateTable) -> CertificateTable:
    half = best_half(table)
    assert half.record is not None
    settings = half.record.certification.model_copy(update={"test_images": len(half.idx)})
    return replace(half, record=half.record.model_copy(update={"certification": settings}))


def test_an_exported_bundle_is_verified(fixed_exported: Path) -> None:
    ran = command("verify", fixed_exported)
    assert (ran.code, ran.err) == (0, "")
    assert f"all {TEST_IMAGES} recorded certificates are identical" in ran.out
    verdict = f"{TEST_IMAGES} test images, sigma 0.25, failure probability 0.05 an image, "
    assert f"{verdict}procedure fixed" in ran.out
    assert "noise " in ran.out and "60 samples an image" in ran.out


def test_a_changed_certificate_is_counted_and_gives_1(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(bundle, with_one_radius)
    without_card(bundle)
    assert run(["verify", str(bundle), "--json"]) == 1
    *_, sentence, _, last = capsys.readouterr().out.splitlines()
    assert sentence == (
        f"{TEST_IMAGES - 1} of {TEST_IMAGES} recorded certificates are identical; 1 differ"
    )
    document = json.loads(last)
    assert (document["recorded"], document["identical"]) == (TEST_IMAGES, TEST_IMAGES - 1)
    assert document["record"]["sigma"] == 0.25


def test_certificates_that_contradict_the_summary_are_refused(bundle: Path) -> None:
    forge(bundle, with_one_radius, summary_too=False)
    assert "do not add up to its summary" in refused("verify", bundle)


def test_certificates_that_were_left_out_are_missed(bundle: Path) -> None:
    forge(bundle, best_half)
    said = f"has {TEST_IMAGES // 2} certificates, but certification.test_images is {TEST_IMAGES}"
    assert said in refused("verify", bundle)
    with pytest.raises(InputError, match=said):
        decrop.load(bundle)


def test_the_certified_images_are_those_that_the_settings_name(bundle: Path) -> None:
    forge(bundle, in_settings_too)
    without_card(bundle)
    decrop.load(bundle)
    assert "the certified images are not those that the settings name" in refused("verify", bundle)


def test_an_image_counts_once(bundle: Path) -> None:
    def doubled(table: CertificateTable) -> CertificateTable:
        return replace(table, idx=np.where(table.idx == table.idx[1], table.idx[0], table.idx))

    forge(bundle, doubled)
    assert "must be of one row alone: an image counts once" in refused("verify", bundle)


def test_labels_are_the_datas(bundle: Path) -> None:
    def relabelled(table: CertificateTable) -> CertificateTable:
        wrong = np.arange(len(table.idx)) == 3
        return replace(table, label=np.where(wrong, (table.label + 1) % 10, table.label))

    forge(bundle, relabelled)
    without_card(bundle)
    assert "has label" in refused("verify", bundle)


def test_classes_have_the_names_of_the_data(bundle: Path) -> None:
    set_in(bundle, "class_names", list("0123456798"), "classifier/classifier.json")
    assert "classifier: class 8 is named '9', but '8' in the data" in refused("verify", bundle)


@pytest.mark.parametrize(
    "figure",
    [
        "| 0.25 | ",
        "Average certified radius ",
        "\n20 test images",
        "σ = 0.25",
        "a probability of at most 0.0",
        "selection and at most 60",
    ],
)
def test_figures_of_the_card_are_those_of_the_certificates(bundle: Path, figure: str) -> None:
    card = bundle / "README.md"
    assert card.read_text().count(figure) == 1
    card.write_text(card.read_text().replace(figure, figure.replace("20", "30") + "9"))
    renew_checksums(bundle)
    assert "README.md: its figures are not those of the certificates" in refused("verify", bundle)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sigma": 0.5}, "sigma 0.5, not 0.25"),
        ({"seed": 7}, "other hashes, seed or chunks"),
        ({"hashes": {"classifier": "f" * 64}}, "other hashes, seed or chunks"),
    ],
)
def test_a_record_that_contradicts_the_settings_is_refused(
    bundle: Path, changes: dict[str, Any], said: str
) -> None:
    path = bundle / "certificates.tsv.json"
    write_json(path, read_json(path) | changes)
    renew_checksums(bundle)
    assert f"{path} contradicts config.json: {said}." in refused("verify", bundle)


def test_checksums_cannot_be_left_out(bundle: Path) -> None:
    write_json(bundle / "checksums.json", {})
    assert "must list" in refused("verify", bundle)


def test_weights_of_the_classifier_can_be_given(bundle: Path, tmp_path: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    (bundle / "classifier" / "weights.safetensors").rename(weights)
    renew_checksums(bundle)
    assert run(["verify", str(bundle)]) == 2
    assert run(["verify", str(bundle), "--weights", str(weights)]) == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--weights", "nowhere"], "classifier.weights: nowhere does not exist"),
        (["--dataset-path", "nowhere"], "dataset.path"),
    ],
)
def test_bad_input_is_one_line(bundle: Path, options: list[str], named: str) -> None:
    assert named in refused("verify", bundle, *options)


@pytest.mark.parametrize("name", ["certificates.tsv", "README.md", "config.json"])
def test_a_changed_file_is_refused(bundle: Path, name: str) -> None:
    with (bundle / name).open("a") as file:
        file.write("\n")
    said = f"error: {bundle} was changed: {name} does not match its checksum.\n"
    assert refused("verify", bundle) == said
