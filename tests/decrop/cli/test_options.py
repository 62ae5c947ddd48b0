"""Settings come from a preset or file, then from `--set`, the last of which wins."""

from pathlib import Path

import pytest

from decrop.cli.options import change, load_trial
from decrop.config import TrialConfig
from decrop.errors import InputError


def test_assignments_lie_over_the_preset() -> None:
    preset = load_trial("digits", [])
    config = load_trial("digits", ["training.loss_weights.mmd=2", "seed=3", "seed=4"])
    assert config.training.loss_weights.mmd == 2.0
    assert config.seed == 4
    assert config.classifier == preset.classifier
    assert config.training.loss_weights.cosine == preset.training.loss_weights.cosine


def test_assignments_lie_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("sigma: 0.5\ntraining: {epochs: 7}\n")
    config = load_trial(str(path), ["training.batch_size=10"])
    assert (config.sigma, config.training.epochs, config.training.batch_size) == (0.5, 7, 10)
    assert config.denoiser == TrialConfig().denoiser


def test_settings_can_be_changed() -> None:
    before = load_trial("digits", [])
    assert change(before, []) == before
    after = change(before, ["certification.radii=[0, 1]", "classifier.training.epochs=1e1"])
    assert after.certification.radii == (0.0, 1.0)
    assert after.classifier.training is not None
    assert after.classifier.training.epochs == 10
    assert before.certification.radii != after.certification.radii


@pytest.mark.parametrize(
    ("assignment", "blamed"),
    [
        ("sigma=0", "--set: sigma = 0"),
        ("training.epochs.more=1", "training.epochs.more cannot be set"),
        ("certification.radii=[1, 0]", "--set: certification"),
    ],
)
def test_mistakes_are_blamed_on_the_assignment(assignment: str, blamed: str) -> None:
    config = load_trial("digits", [])
    with pytest.raises(InputError) as loading:
        load_trial("digits", [assignment])
    with pytest.raises(InputError) as changing:
        change(config, [assignment])
    for error in (loading, changing):
        assert str(error.value).startswith(blamed)
        assert "\n" not in str(error.value)
