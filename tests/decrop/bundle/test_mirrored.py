"""A trial whose logits are averaged over mirror images, from its settings to its bundle."""

import shutil
from pathlib import Path

import pytest
import torch

import decrop
from decrop.bundle import load_bundle, verify_bundle
from decrop.bundle.rejector import add_rejector
from decrop.cache import ContentCache
from decrop.cli.options import change
from decrop.errors import InputError
from decrop.files import read_json
from decrop.networks.denoised import DenoisedClassifier
from decrop.trial.folder import TrialFolder
from decrop.trial.inputs import TrialInputs
from decrop.trial.run import run_trial
from tests.decrop.bundle.changed_bundle import set_in
from tests.decrop.digits_trial import export, short_trial
from tests.decrop.rejecting import small_settings
from tests.refusals import one_line

MIRRORED = "denoiser.mirrored=true"


@pytest.fixture(scope="module")
def bundle_path(inputs: TrialInputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mirrored")
    trial = TrialFolder(folder / "trial")
    list(run_trial(short_trial(MIRRORED), inputs, trial, ContentCache(folder), split="test"))
    return export(trial, inputs, folder / "bundle")


def test_its_bundle_computes_what_was_certified(bundle_path: Path) -> None:
    model = decrop.load(bundle_path)
    bundle = model.bundle
    assert bundle.config.denoiser.mirrored
    assert "before small_cnn, mirrored, 10 classes" in repr(model)
    assert verify_bundle(bundle) == len(bundle.certificates.idx)
    noisy = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        logits = [bundle.classifier(bundle.denoiser(given)) for given in (noisy, noisy.flip(-1))]
        torch.testing.assert_close(bundle.network(noisy), sum(logits) / 2)
        torch.testing.assert_close(model.denoise(noisy), bundle.denoiser(noisy))
    assert "each by the mean of its logits and those of its mirror image" in (
        bundle_path / "README.md"
    ).read_text(encoding="utf-8")


def test_a_bundle_that_hides_it_does_not_verify(bundle_path: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(bundle_path, tmp_path / "changed"))
    set_in(changed, "trial.denoiser.mirrored", value=False)
    bundle = load_bundle(changed)
    assert verify_bundle(bundle) < len(bundle.certificates.idx)


def test_settings_and_bundles_without_it_stay_as_they_were(exported: Path) -> None:
    assert "mirrored" not in short_trial().model_dump(mode="json")["denoiser"]
    assert "mirrored" not in read_json(exported / "config.json")["trial"]["denoiser"]
    network = load_bundle(exported).network
    assert isinstance(network, DenoisedClassifier)
    assert not network.mirrored


def test_a_rejector_decides_about_one_image(bundle_path: Path, tmp_path: Path) -> None:
    bundle = load_bundle(bundle_path)
    config = change(
        bundle.config, ["certification.procedure=fixed", "certification.certificate=rejection"]
    )
    settings, work = small_settings(head="denoised"), TrialFolder(tmp_path / "work")
    told = one_line(add_rejector, bundle_path, bundle, config, settings, tmp_path / "new", work)
    assert "denoiser.mirrored: a rejector decides about one denoised image" in told


def test_what_has_no_logits_to_average_is_refused() -> None:
    endpoint = "classifier.source=http://127.0.0.1:9/invocations"
    for given, said in (
        (endpoint, "an endpoint is asked about one"),
        ("denoiser.source=none", "mirrored is not for source 'none'"),
    ):
        with pytest.raises(InputError, match=said):
            short_trial(MIRRORED, "classifier.training=null", given)
