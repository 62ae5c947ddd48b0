"""A bundle of a trial certified at several sigmas: verified, and refused where changed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import decrop
from decrop.bundle import load_bundle
from decrop.bundle.load import read_certificates
from decrop.cache import ContentCache
from decrop.data.datasets import load_dataset
from decrop.errors import InputError
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json, write_json
from decrop.trial.folder import TrialFolder
from decrop.trial.inputs import TrialInputs
from decrop.trial.result import TrialResult
from decrop.trial.run import run_trial
from tests.commands import decrop as command
from tests.commands import refused
from tests.decrop.bundle.changed_bundle import renew_checksums
from tests.decrop.digits_trial import TEST_IMAGES, certificates, export, files_in, short_trial

FURTHER = {
    f"certificates_{name}.tsv{ending}"
    for name in ("envelope", "sigma_0.12", "sigma_0.5")
    for ending in ("", ".json")
}


@pytest.fixture(scope="module")
def trial(
    inputs: TrialInputs, cache: ContentCache, tmp_path_factory: pytest.TempPathFactory
) -> TrialFolder:
    folder = TrialFolder(tmp_path_factory.mktemp("several"))
    config = short_trial("certification.sigmas=[0.12,0.25,0.5]")
    list(run_trial(config, inputs, folder, cache, split="test"))
    return folder


@pytest.fixture
def bundle(trial: TrialFolder, inputs: TrialInputs, tmp_path: Path) -> Path:
    return export(trial, inputs, tmp_path / "bundle")


def test_a_trial_is_certified_at_all_sigmas_and_its_own_tables_stay(
    trial: TrialFolder, final_trial: TrialFolder
) -> None:
    assert files_in(trial.path) - files_in(final_trial.path) == FURTHER
    own, alone = (
        CertificateTable.read_tsv(folder.certificates_path) for folder in (trial, final_trial)
    )
    assert certificates(own) == certificates(alone)
    assert own.record == alone.record
    result, other = read_json(trial.result_path), read_json(final_trial.result_path)
    assert list(result["by_sigma"]) == ["0.12", "0.25", "0.5"]
    assert result["by_sigma"]["0.25"]["certified_accuracy"] == other["certified_accuracy"]
    assert result["envelope"]["images"] == TEST_IMAGES
    assert not {"by_sigma", "envelope"} & set(other)
    assert trial.result is not None
    assert TrialResult.from_json(trial.result.to_json()) == trial.result


def test_a_bundle_of_several_sigmas_is_verified(bundle: Path) -> None:
    assert files_in(bundle) > FURTHER
    ran = command("verify", bundle, "--json")
    assert ran.code == 0
    assert f"all {4 * TEST_IMAGES} recorded certificates are identical" in ran.out
    assert "the best sigma of each among 0.12, 0.25, 0.5" in ran.out
    assert ran.last_line["identical"] == 4 * TEST_IMAGES
    card = (bundle / "README.md").read_text()
    assert "| envelope |" in card and "no certificate of one\nclassifier" in card
    assert "| `certificates_envelope.tsv` |" in card and "`certificates_sigma_…`" in card


def test_a_changed_envelope_is_counted(bundle: Path) -> None:
    path = bundle / "certificates_envelope.tsv"
    table = CertificateTable.read_tsv(path)
    assert table.sigma is not None
    replace(table, sigma=table.sigma[::-1].copy()).write(path)
    renew_checksums(bundle)
    ran = command("verify", bundle)
    assert ran.code == 1 and "differ" in ran.out


@pytest.mark.parametrize("change", ["radius", "missing", "summary", "images", "record", "card"])
def test_what_does_not_fit_is_refused(change: str, bundle: Path) -> None:
    path = bundle / "certificates_sigma_0.5.tsv"
    table, config = CertificateTable.read_tsv(path), read_json(bundle / "config.json")
    message = "do not add up to its summary"
    match change:
        case "radius":
            replace(table, predict=table.label, radius=table.radius + 1).write(path)
        case "missing":
            path.unlink()
            message = "must list certificates_sigma_0.5.tsv"
        case "summary":
            del config["result"]["by_sigma"]["0.5"]
            write_json(bundle / "config.json", config)
        case "images":
            replace(table, idx=table.idx + 1).write(path)
            message = "is of other images"
        case "record":
            assert table.record is not None
            replace(table, record=table.record.model_copy(update={"sigma": 0.4})).write(path)
            message = "is missing or contradicts"
        case "card":
            card = bundle / "README.md"
            row = next(r for r in card.read_text().splitlines() if r.startswith("| envelope |"))
            card.write_text(card.read_text().replace(row, row.replace(" %", "9 %", 1)))
            message = "its figures are not those"
    renew_checksums(bundle)
    if change == "card":
        assert message in refused("verify", bundle)
        return
    with pytest.raises(InputError, match=message):
        load_bundle(bundle)
    with pytest.raises(InputError, match=message):
        read_certificates(bundle)


def test_a_bundle_is_certified_at_other_sigmas(
    exported: Path, bundle: Path, tmp_path: Path
) -> None:
    """A bundle that records one sigma gives at several what one that records them has."""
    out = tmp_path / "out" / "mine.tsv"
    sigmas = "certification.sigmas=[0.12,0.5]"
    ran = command("certify", exported, "--out", out, "--set", sigmas, "--json")
    document = ran.last_line
    names = {name.replace("certificates", "mine") for name in FURTHER}
    assert files_in(out.parent) == {"mine.tsv", "mine.tsv.json", "mine_sigmas.png", *names}
    recorded = load_bundle(bundle).tables
    for name, path in (
        ("σ = 0.12", document["by_sigma"]["0.12"]["certificates"]),
        ("σ = 0.25", document["certificates"]),
        ("σ = 0.5", document["by_sigma"]["0.5"]["certificates"]),
        ("envelope", document["envelope"]["certificates"]),
    ):
        assert certificates(CertificateTable.read_tsv(Path(path))) == certificates(recorded[name])
    assert "not for one classifier that chooses σ by the image" in " ".join(ran.out.split())
    drawn = command("figures", bundle, "--to", tmp_path / "figures", "--without-data")
    assert drawn.code == 0, drawn.err


def test_a_loaded_bundle_certifies_at_another_sigma_what_is_recorded(bundle: Path) -> None:
    model = decrop.load(bundle)
    tables = model.bundle.sigma_tables
    assert tables is not None
    own, other = model.bundle.certificates, tables.by_sigma[0.5]
    indices = torch.from_numpy(own.idx)
    test = load_dataset(model.bundle.config.dataset).test
    images, labels = test.images(indices), test.labels[indices]
    with pytest.warns(UserWarning, match=r"was trained with noise of sigma .*; at 0\.5"):
        outcome = model.certify(images, labels, indices, sigma=0.5)
    assert outcome.prediction.tolist() == other.predict.tolist()
    assert outcome.radius.tolist() == other.radius.tolist()
    again = model.certify(images, labels, indices)
    assert again.radius.tolist() == own.radius.tolist() != other.radius.tolist()
    assert set(model.predict(images, samples=50, sigma=0.01)) - {-1} > set(labels[:1].tolist())
    for wrong in (0.0, float("nan")):
        with pytest.raises(InputError, match="sigma"):
            model.certify(images, sigma=wrong)
