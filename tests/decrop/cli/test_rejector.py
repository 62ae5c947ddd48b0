"""`decrop rejector train` adds a rejector to a bundle, which other commands then use."""

import json
from pathlib import Path

import pytest

from decrop.bundle import load_bundle
from decrop.cli.main import run
from decrop.evaluation.table import CertificateTable
from tests.decrop.digits_trial import certificates

SMALL = (
    "rejector.width=4",
    "rejector.hidden_units=8",
    "rejector.noise_draws=3",
    "rejector.epochs=2",
    "rejector.adam_epochs=1",
)


def set_options(*assignments: str) -> list[str]:
    return [word for assignment in assignments for word in ("--set", assignment)]


@pytest.mark.slow
def test_a_bundle_with_a_rejector_is_trained_certified_and_verified(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rejecting"
    arguments = ["rejector", "train", str(exported), "--out", str(out), "--json"]
    assert run([*arguments, *set_options(*SMALL, "certification.estimation_samples=50")]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    document = json.loads(shown.out.splitlines()[-1])
    bundle = load_bundle(out)
    assert bundle.rejector is not None
    assert bundle.rejector.settings.epochs == 2
    # Of the preset.
    assert (bundle.rejector.settings.head, bundle.rejector.settings.blocks) == (
        "denoised",
        (1, 1, 1, 1),
    )
    assert bundle.estimation_samples == 50
    assert document["held_out"]["draws"] == bundle.rejector.held_out.draws == 10 * 3
    assert document["result"] == json.loads(json.dumps(bundle.result.to_json()))
    assert "training the rejector, epochs: 2 of 2" in shown.out
    assert "of 30 noisy held-out images" in shown.out
    assert "│ without " in shown.out
    assert [path.name for path in tmp_path.iterdir()] == ["rejecting"]

    assert run(["verify", str(out)]) == 0
    assert "all 20 recorded certificates are identical" in capsys.readouterr().out
    table = tmp_path / "certificates.tsv"
    assert run(["certify", str(out), "--out", str(table)]) == 0
    assert certificates(CertificateTable.read_tsv(table)) == certificates(bundle.certificates)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("rejector.depth=3", "--set: depth is not a setting"),
        ("rejector.head=both", "--set: head = 'both'"),
        ("rejector.stages=[nowhere]", "small_cnn has no module 'nowhere'"),
        ("certification.procedure=adaptive", "certificate rejection needs procedure fixed"),
        ("certification.certificate=cohen", "must be rejection"),
        ("sigma=0.5", "--set sigma: the bundle fixes it"),
        ("seed=4", "--set seed: the bundle fixes it"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(
    assignment: str,
    message: str,
    exported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "rejecting"
    arguments = ["rejector", "train", str(exported), "--out", str(out)]
    assert run([*arguments, *set_options(*SMALL, assignment)]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_exists_is_left_alone(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["rejector", "train", str(exported), "--out", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_preset_that_is_not_there_is_refused(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["rejector", "train", str(exported), "--out", str(tmp_path / "new")]
    assert run([*arguments, "--settings", "large"]) == 2
    assert "no rejector preset 'large'; choose one of paper, small" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "certify"])
def test_the_certificate_needs_a_rejector(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = set_options("certification.procedure=fixed", "certification.certificate=rejection")
    assert run([command, "digits", "--out", str(tmp_path / "out"), *options]) == 2
    assert "there is no rejector here; decrop rejector train adds" in capsys.readouterr().err
