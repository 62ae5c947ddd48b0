"""`decrop verify` says how many certificates are identical, and fails if one is not."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from decrop.cli.main import run
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json, sha256_of_file, write_json
from decrop.result import Scores
from tests.decrop.digits_trial import TEST_IMAGES


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def change_one_radius(bundle: Path, *, summary_too: bool) -> None:
    """Change the first certificate, and its checksum with it; perhaps also the summary."""
    path = bundle / "certificates.tsv"
    header, row, *rest = path.read_text().splitlines()
    idx, label, _, _, _, *known = row.split("\t")
    changed = "\t".join([idx, label, label, "0.7654321", "1", *known])
    path.write_text("\n".join([header, changed, *rest]) + "\n")
    config = bundle / "config.json"
    if summary_too:
        document = read_json(config)
        table = CertificateTable.read_tsv(path)
        radii = tuple(document["trial"]["certification"]["radii"])
        document["result"] |= asdict(Scores.of(table, radii))
        write_json(config, document)
    checksums = read_json(bundle / "checksums.json")
    changed_files = {file.name: sha256_of_file(file) for file in (path, config)}
    write_json(bundle / "checksums.json", checksums | changed_files)


@pytest.mark.parametrize("procedure", ["adaptive", "fixed"])
def test_an_exported_bundle_is_verified(
    procedure: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = request.getfixturevalue("exported" if procedure == "adaptive" else "fixed_exported")
    capsys.readouterr()
    assert run(["verify", str(bundle)]) == 0
    shown = capsys.readouterr()
    assert f"all {TEST_IMAGES} recorded certificates are identical" in shown.out
    assert shown.err == ""


def test_a_changed_certificate_is_counted_and_gives_1(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_one_radius(bundle, summary_too=True)
    assert run(["verify", str(bundle), "--json"]) == 1
    *_, sentence, last = capsys.readouterr().out.splitlines()
    assert sentence == (
        f"{TEST_IMAGES - 1} of {TEST_IMAGES} recorded certificates are identical; 1 differ"
    )
    assert json.loads(last) == {"recorded": TEST_IMAGES, "identical": TEST_IMAGES - 1}


def test_certificates_that_contradict_the_summary_are_refused(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_one_radius(bundle, summary_too=False)
    assert run(["verify", str(bundle)]) == 2
    assert "do not add up to its summary" in capsys.readouterr().err


def test_checksums_cannot_be_left_out(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(bundle / "checksums.json", {})
    assert run(["verify", str(bundle)]) == 2
    assert "must list" in capsys.readouterr().err


def test_weights_of_the_classifier_can_be_given(bundle: Path, tmp_path: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    (bundle / "classifier" / "weights.safetensors").rename(weights)
    checksums = read_json(bundle / "checksums.json")
    del checksums["classifier/weights.safetensors"]
    write_json(bundle / "checksums.json", checksums)
    assert run(["verify", str(bundle)]) == 2
    assert run(["verify", str(bundle), "--weights", str(weights)]) == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--weights", "nowhere"], "classifier.weights: nowhere does not exist"),
        (["--dataset-path", "nowhere"], "dataset.path"),
    ],
)
def test_bad_input_is_one_line(
    bundle: Path, options: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["verify", str(bundle), *options]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert named in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("name", ["certificates.tsv", "README.md", "config.json"])
def test_a_changed_file_is_refused(
    bundle: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (bundle / name).open("a") as file:
        file.write("\n")
    assert run(["verify", str(bundle)]) == 2
    assert capsys.readouterr().err == (
        f"error: {bundle} was changed: {name} does not match its checksum.\n"
    )


def test_what_is_no_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'nowhere' / 'config.json'} does not exist.\n"
    )
