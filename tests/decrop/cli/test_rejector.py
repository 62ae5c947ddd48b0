"""`decrop rejector train` adds a rejector to a bundle, which other commands then use."""

import json
from pathlib import Path

import pytest

from decrop.bundle import load_bundle
from decrop.cli.main import run
from decrop.evaluation.table import CertificateTable
from tests.cases import cases
from tests.commands import refused, set_options
from tests.decrop.digits_trial import certificates

SMALL = (
    "rejector.width=4",
    "rejector.hidden_units=8",
    "rejector.noise_draws=3",
    "rejector.epochs=2",
    "rejector.adam_epochs=1",
)


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


@cases(
    ("options", "message"),
    [
        (set_options("rejector.depth=3"), "--set: depth is not a setting"),
        (set_options("rejector.head=both"), "--set: head = 'both'"),
        (set_options("rejector.stages=[nowhere]"), "small_cnn has no module 'nowhere'"),
        (
            set_options("certification.procedure=adaptive"),
            "certificate rejection needs procedure fixed",
        ),
        (set_options("certification.certificate=cohen"), "must be rejection"),
        (set_options("sigma=0.5"), "--set sigma: the bundle fixes it"),
        (set_options("seed=4"), "--set seed: the bundle fixes it"),
        (
            ["--settings", "large"],
            "no rejector preset 'large'; choose one of paper, small",
        ),
        (["--out", "."], "exists already"),
    ],
)
def test_what_cannot_be_used_is_refused(
    options: list[str],
    message: str,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [*set_options(*SMALL), "--out", "rejecting", *options]
    assert message in refused("rejector", "train", exported, *given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["train", "certify"])
def test_the_certificate_needs_a_rejector(command: str, tmp_path: Path) -> None:
    options = set_options("certification.procedure=fixed", "certification.certificate=rejection")
    said = refused(command, "digits", "--out", tmp_path / "out", *options)
    assert "there is no rejector here; decrop rejector train adds" in said
