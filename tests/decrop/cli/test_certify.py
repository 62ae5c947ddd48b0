"""`decrop certify` certifies a bundle anew, or a classifier alone, and writes one row an image."""

import json
from pathlib import Path

import numpy as np
import pytest

from decrop.bundle import load_bundle
from decrop.cli.main import run
from decrop.evaluation.table import CertificateTable
from decrop.inputs import TrialInputs
from decrop.result import Scores
from decrop.trial import certify_undefended
from decrop.trial_folder import TrialFolder
from tests.decrop.cli.bad_settings import BAD_ARGUMENTS, write_bad_files
from tests.decrop.digits_trial import SHORT, certificates, short_trial


def set_options(*assignments: str) -> list[str]:
    return [word for assignment in assignments for word in ("--set", assignment)]


def certified(target: str, out: Path, *options: str) -> CertificateTable:
    assert run(["certify", target, "--out", str(out), *options]) == 0
    return CertificateTable.read_tsv(out)


def test_certificates_of_a_bundle_are_those_it_records(exported: Path, tmp_path: Path) -> None:
    table = certified(str(exported), tmp_path / "certificates.tsv")
    assert certificates(table) == certificates(load_bundle(exported).certificates)
    assert [path.name for path in tmp_path.iterdir()] == ["certificates.tsv"]


def test_last_line_is_one_json_object(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "certificates.tsv"
    table = certified(str(exported), out, "--json")
    shown = capsys.readouterr()
    assert shown.err == ""
    scores = Scores.of(table, short_trial().certification.radii)
    assert json.loads(shown.out.splitlines()[-1]) == {
        "certificates": str(out),
        "certified_accuracy": scores.certified_accuracy,
    }
    assert "σ = 0.25, N = 60" in shown.out


def test_settings_of_certification_can_be_changed(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = set_options(
        "certification.test_images=7",
        "certification.estimation_samples=200",
        "certification.radii=[0.1]",
    )
    table = certified(str(exported), tmp_path / "certificates.tsv", *options, "--json")
    assert len(table.idx) == 7
    # More than 60 draws can certify.
    assert table.radius.max() > 0.25 * 1.7
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(document["certified_accuracy"]) == ["0.1"]


def test_settings_give_the_classifier_without_a_denoiser(
    inputs: TrialInputs, tmp_path: Path
) -> None:
    reference = TrialFolder(tmp_path / "reference")
    certify_undefended(short_trial(), inputs, reference)
    out = tmp_path / "here" / "certificates.tsv"
    table = certified("digits", out, *set_options(*SHORT))
    assert certificates(table) == certificates(
        CertificateTable.read_tsv(reference.certificates_path)
    )
    assert [path.name for path in out.parent.iterdir()] == ["certificates.tsv"]


def test_settings_can_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(
        "dataset: {name: digits}\n"
        "limited: {fraction: 0.1}\n"
        "classifier: {architecture: small_cnn, training: {epochs: 1}}\n"
        "certification: {test_images: 3, estimation_samples: 10, selection_samples: 5}\n"
    )
    assert run(["certify", "mine.yaml"]) == 0
    table = CertificateTable.read_tsv(Path("certificates.tsv"))
    assert len(table.idx) == 3
    assert np.isfinite(table.radius).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["certificates.tsv", "mine.yaml"]


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run(["certify", *arguments, "--json"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1, shown.err
    return shown.err


@pytest.mark.parametrize("mistake", BAD_ARGUMENTS)
def test_bad_input_is_one_line_and_nothing_is_created(
    mistake: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bad_files(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    given, named = BAD_ARGUMENTS[mistake]
    message = refused(given, capsys)
    assert all(part in message for part in named), message
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_input_to_a_bundle_is_one_line_and_nothing_is_created(
    exported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refused([str(exported), "--set", "certification.test_image=7"], capsys)
    assert "nearest: certification.test_images" in message
    assert "--set" in message
    assert "dataset.path" in refused([str(exported), "--dataset-path", "nowhere"], capsys)
    (tmp_path / "empty").mkdir()
    assert "config.json does not exist" in refused(["empty"], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
