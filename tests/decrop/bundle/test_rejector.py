"""A bundle with a rejector: written, read back, certified, verified, and refused where it must."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import decrop
import decrop.bundle.load
import decrop.bundle.rejector
from decrop.bundle import load_bundle, verify_bundle
from decrop.bundle.layout import FORMAT
from decrop.bundle.model_card import license_and_origin
from decrop.bundle.rejector import AddedRejector, add_rejector
from decrop.cli.options import change
from decrop.config.rejector import RejectorSettings
from decrop.data.datasets import load_dataset
from decrop.data.limited import LabelledImages, evenly_spaced
from decrop.errors import InputError
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json, sha256_of_file, write_json
from decrop.training.hooks import Hooks
from decrop.trial.certify import CertificationTask, certify
from decrop.trial.folder import TrialFolder
from tests.cases import cases
from tests.decrop.bundle.changed_bundle import set_in
from tests.decrop.digits_trial import ESTIMATION_SAMPLES, FIXED, files_in
from tests.decrop.rejecting import small_settings

REJECTION = (FIXED, "certification.certificate=rejection")
SETTINGS = small_settings(head="denoised")


def added(source: Path, destination: Path, settings: RejectorSettings, **named: Any) -> Any:
    bundle = load_bundle(source)
    config = change(bundle.config, REJECTION)
    folder = TrialFolder(destination.with_name("work"))
    return add_rejector(source, bundle, config, settings, destination, folder, **named)


@pytest.fixture(scope="module")
def made(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AddedRejector]:
    path = tmp_path_factory.mktemp("rejecting") / "bundle"
    return path, added(exported, path, SETTINGS)


def images_of(path: Path) -> LabelledImages:
    config = load_bundle(path).config
    return evenly_spaced(load_dataset(config.dataset).test, config.certification.test_images)


def constant_table(path: Path, bias: float, *assignments: str) -> CertificateTable:
    """Certify with all heads at a constant."""
    bundle = load_bundle(path)
    assert bundle.rejector is not None
    with torch.no_grad():
        bundle.rejector.network.heads[-1].weight.zero_()
        bundle.rejector.network.heads[-1].bias.fill_(bias)
    return table_of(bundle, change(bundle.config, assignments), path)


def table_of(bundle: Any, config: Any, path: Path) -> CertificateTable:
    task = CertificationTask(bundle.network, images_of(path), "test", len(bundle.class_names))
    return certify(config, task, estimation_samples=ESTIMATION_SAMPLES).table


def test_it_is_read_back_as_it_was_made(made: tuple[Path, AddedRejector], exported: Path) -> None:
    path, rejecting = made
    bundle, before = load_bundle(path), load_bundle(exported)
    assert read_json(path / "config.json")["format"] == FORMAT
    assert bundle.rejector is not None
    assert bundle.rejector.settings.stages == ("maps.5", "maps.9")
    assert bundle.rejector.held_out == rejecting.rejector.held_out
    assert bundle.result == rejecting.result
    made_weights = rejecting.rejector.network.state_dict()
    for name, tensor in bundle.rejector.network.state_dict().items():
        assert torch.equal(tensor, made_weights[name])
    for name, tensor in bundle.denoiser.state_dict().items():
        assert torch.equal(tensor, before.denoiser.state_dict()[name])
    settings = bundle.config.certification
    assert (settings.procedure, settings.certificate) == ("fixed", "rejection")
    assert settings.failure_probability == before.config.certification.failure_probability
    assert bundle.config.training == before.config.training
    assert files_in(path) == files_in(exported) | {"rejector.safetensors", "rejector_history.json"}
    assert len(read_json(path / "rejector_history.json")) == SETTINGS.epochs
    assert not path.with_name("work").exists()


def test_its_certificates_are_repeated(made: tuple[Path, AddedRejector]) -> None:
    path, _ = made
    bundle = load_bundle(path)
    recorded = bundle.certificates
    assert verify_bundle(bundle) == len(recorded.idx)
    indices = torch.from_numpy(recorded.idx)
    images = load_dataset(bundle.config.dataset).test.images(indices)
    model = decrop.load(path)
    outcome = model.certify(images, indices=indices)
    assert (outcome.prediction == recorded.predict).all()
    assert (outcome.radius == recorded.radius).all()
    assert outcome.estimation_counts.shape[1] == len(model.class_names) + 2
    assert outcome.estimation_counts[:, -2].sum() > 0
    predicted = model.predict(images, samples=100, failure_probability=0.001, indices=indices)
    assert predicted.max() < len(model.class_names)
    sure = (predicted >= 0) & (recorded.predict >= 0)
    assert sure.sum() >= 5
    assert (predicted[sure] == recorded.predict[sure]).mean() > 0.9


def test_a_rejector_that_never_rejects_leaves_certify_at_half_the_level(
    made: tuple[Path, AddedRejector], exported: Path
) -> None:
    path, _ = made
    never = constant_table(path, -100.0)
    without = load_bundle(exported)
    halved = without.config.certification.failure_probability / 2
    config = change(without.config, [FIXED, f"certification.failure_probability={halved}"])
    certified = table_of(without, config, path)
    assert (never.predict == certified.predict).all()
    assert np.allclose(never.radius, certified.radius, rtol=1e-12)
    assert (certified.radius > 0).sum() >= 5
    at_the_level = table_of(without, change(without.config, [FIXED]), path)
    assert at_the_level.radius.sum() > never.radius.sum()


def test_a_rejector_that_always_rejects_abstains(made: tuple[Path, AddedRejector]) -> None:
    always = constant_table(made[0], 100.0)
    assert (always.predict == -1).all()
    assert (always.radius == 0).all()


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_bundle(
    made: tuple[Path, AddedRejector],
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def killed(stage: str, epochs: int, of: int) -> None:
        if epochs == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(decrop.training.loop, "SAVE_EVERY_SECONDS", 0.0)
    destination = tmp_path / "bundle"
    with pytest.raises(KeyboardInterrupt):
        added(exported, destination, SETTINGS, hooks=Hooks(on_progress=killed))
    assert not destination.exists()
    with pytest.raises(InputError, match="holds a training with other settings"):
        added(exported, destination, small_settings())
    with monkeypatch.context() as patched:
        # As if the dataset's test images were others by now.
        patched.setattr(
            decrop.bundle.rejector,
            "images_to_certify",
            lambda dataset, count: evenly_spaced(dataset.test, count - 1),
        )
        with pytest.raises(InputError, match=r"was begun with other test images \("):
            added(exported, destination, SETTINGS)
    epochs: list[int] = []
    hooks = Hooks(on_progress=lambda stage, done, of: epochs.append(done))
    added(exported, destination, SETTINGS, hooks=hooks)
    assert epochs == [3, 4]
    assert sha256_of_file(destination / "rejector.safetensors") == sha256_of_file(
        made[0] / "rejector.safetensors"
    )


def test_a_bundle_with_a_rejector_gets_no_other(
    made: tuple[Path, AddedRejector], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="has a rejector already"):
        added(made[0], tmp_path / "bundle", SETTINGS)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rejector", None, "there is no rejector here"),
        ("trial.certification.certificate", "cohen", "must be rejection"),
        ("rejector.settings.stages", None, "rejector.settings.stages must be stated"),
        ("rejector.settings.stages", ["maps.2", "nowhere"], "has no module 'nowhere'"),
        ("rejector.settings.stages", [], "does not fit the rejector"),
        ("rejector.settings.width", 8, "does not fit the rejector"),
    ],
)
def test_what_does_not_fit_is_refused(
    key: str, value: Any, message: str, made: tuple[Path, AddedRejector], tmp_path: Path
) -> None:
    path = Path(shutil.copytree(made[0], tmp_path / "bundle"))
    set_in(path, key, value)
    with pytest.raises(InputError, match=message):
        load_bundle(path)


def test_a_rejector_that_is_not_listed_is_refused(
    made: tuple[Path, AddedRejector], tmp_path: Path
) -> None:
    path = tmp_path / "bundle"
    shutil.copytree(made[0], path)
    checksums = read_json(path / "checksums.json")
    del checksums["rejector.safetensors"]
    write_json(path / "checksums.json", checksums)
    with pytest.raises(InputError, match=r"must list rejector\.safetensors"):
        load_bundle(path)


def test_the_card_tells_of_the_rejector_and_keeps_what_was_said(
    made: tuple[Path, AddedRejector], exported: Path
) -> None:
    card = " ".join((made[0] / "README.md").read_text().split())
    draws = made[1].rejector.held_out.draws
    assert f"Of {draws} noisy copies of held-out images" in card
    assert "Certified by rejection from equally many noise draws" in card
    assert "this classifier, this rejector," in card
    assert "`rejector.safetensors` | weights of the rejector" in card
    before = (exported / "README.md").read_text()
    assert license_and_origin(before) == ("unknown", "Made for tests.")
    assert license_and_origin((made[0] / "README.md").read_text()) == ("unknown", "Made for tests.")
    assert license_and_origin(before.replace("license: unknown", "license: mit"))[0] == "mit"


@cases("card", ["", "no header", "---\n: [\n---\n", "---\nlicense: 3\n---\n"])
def test_a_card_that_says_nothing_leaves_it_unknown(card: str) -> None:
    assert license_and_origin(card) == ("unknown", "")
