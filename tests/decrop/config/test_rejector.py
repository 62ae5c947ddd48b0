from importlib.resources import files

import pytest
from pydantic import ValidationError

from decrop.config.rejector import RejectorSettings
from decrop.documents import read_yaml, validated
from tests.cases import cases

PRESETS = files("decrop") / "presets" / "rejector"


def test_defaults_are_the_papers() -> None:
    preset = read_yaml(PRESETS / "paper.yaml")
    assert validated(RejectorSettings, preset, source="paper") == RejectorSettings()


def test_every_preset_is_valid() -> None:
    names = sorted(entry.name for entry in PRESETS.iterdir())
    assert names == ["paper.yaml", "small.yaml"]
    for name in names:
        validated(RejectorSettings, read_yaml(PRESETS / name), source=name)


@cases(
    "wrong",
    [
        {"blocks": (1, 1, 1)},
        {"blocks": (0, 1, 1, 1)},
        {"width": 10_000},
        {"stages": ("a", "a")},
        {"stages": ("a", "b", "c", "d", "e")},
        {"threshold": 1.0},
        {"head": "both"},
        {"noise_draws": 0},
    ],
)
def test_wrong_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RejectorSettings.model_validate(wrong)
