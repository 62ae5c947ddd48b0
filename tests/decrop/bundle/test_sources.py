"""Bundles of classifiers that are not registered networks: from training to certificates again."""

from pathlib import Path

import pytest
import torch

import decrop
from decrop.bundle import verify_bundle
from decrop.cache import ContentCache
from decrop.cli.main import run
from decrop.errors import InputError
from decrop.trial.folder import TrialFolder
from decrop.trial.prepare import load_inputs
from decrop.trial.run import run_trial
from tests.decrop.classifiers.exported import program_of
from tests.decrop.classifiers.factories import make
from tests.decrop.digits_trial import CPU, export, short_trial

FACTORY = "tests.decrop.classifiers.factories:make"


def bundle_of(folder: Path, *assignments: str) -> Path:
    config = short_trial("classifier.training=null", *assignments)
    cache = ContentCache(folder / "cache")
    inputs = load_inputs(config, cache, CPU)
    trial = TrialFolder(folder / "trial")
    list(run_trial(config, inputs, trial, cache, split="test"))
    return export(trial, inputs, folder / "bundle")


@pytest.mark.slow
def test_a_program_is_in_its_bundle(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt2"
    path.write_bytes(program_of(make(classes=10, size=8).eval(), (1, 8, 8)))
    bundle = bundle_of(tmp_path, f"classifier.source={path}")
    path.unlink()
    model = decrop.load(bundle)
    assert model.bundle.config.classifier.source == "program.pt2"
    assert verify_bundle(model.bundle) == len(model.bundle.certificates.idx)
    assert str(tmp_path) not in (bundle / "config.json").read_text()
    assert "The classifier's weights are included" in (bundle / "README.md").read_text()


def test_a_functions_bundle_needs_trust_or_the_network(tmp_path: Path) -> None:
    size = 10
    bundle = bundle_of(
        tmp_path,
        f"classifier.source={FACTORY}",
        f"classifier.arguments={{classes: 10, size: {size}}}",
        f"classifier.input_size=[{size},{size}]",
        "classifier.feature_layer='1'",
    )
    with pytest.raises(InputError, match="a bundle may not import by itself"):
        decrop.load(bundle)
    trusted = decrop.load(bundle, trust_code=True)
    given = decrop.load(bundle, classifier=make(classes=10, size=size))
    images = torch.rand(2, 1, 8, 8)
    expected = trusted.bundle.network(images)
    assert torch.equal(given.bundle.network(images), expected)
    assert run(["verify", str(bundle)]) == 2
    assert run(["verify", str(bundle), "--trust-code"]) == 0
    assert "trust_code=True" in (bundle / "README.md").read_text()
