"""JSON schemas that editors check files by, against what the product itself takes."""

import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from decrop.config import TrialConfig
from decrop.documents import field_paths, load_trial_document, merge, parse_yaml
from decrop.errors import InputError
from tests.cases import cases
from tune.schema import all_settings, sweep_schema, trial_schema
from tune.sweep_file import SweepConfig, load_sweep

FILE = """
# yaml-language-server: $schema=sweep.schema.json
name: mine
base: digits
trials: 3
trial:
  training: {epochs: 4}
space:
  training.learning_rate: {loguniform: [1e-4, 1e-2]}
  classifier.arguments.depth: {choice: [1, 2]}
"""
# Laid over the file above.
BROKEN = {
    "a misspelt key": "trails: 4",
    "no name": "name: null",
    "a name with blanks": "name: my sweep",
    "no number": "trials: many",
    "too few": "trials: 0",
    "another search": "search: bayes",
    "not one objective": "objectives: []",
    "objectives without a list": "objectives: average_certified_radius",
    "a misspelt group": "prunning: {enabled: true}",
    "a misspelt setting of a group": "pruning: {enable: true}",
    "below both bounds": "pruning: {reduction_factor: 1}",
    "negative resources": "resources: {trial: {cpu: -1}}",
    "a misspelt setting of a trial": "trial: {training: {epoch: 3}}",
    "a setting outside its group": "trial: {learning_rate: 0.1}",
    "a value out of range": "trial: {sigma: 40}",
    "a text for a number": "trial: {denoiser: {depth: deep}}",
    "an unknown component": "trial: {boundary: {attack: fgsm}}",
    "a list for a mapping": "trial: [1]",
    "a misspelt path": "space: {training.learning_rat: {uniform: [0, 1]}}",
    "a path that measures": "space: {sigma: {uniform: [0.1, 1]}}",
    "an unknown domain": "space: {boundary.steps: {range: [1, 5]}}",
    "two domains": "space: {boundary.steps: {int: [1, 5], choice: [2]}}",
    "one end": "space: {boundary.epsilon: {uniform: [0.01]}}",
    "no choice": "space: {boundary.attack: {choice: []}}",
    "a value without a domain": "space: {boundary.steps: 5}",
    "a misspelt row": "rows: {one: {boundary.step: 5}}",
}

Checker = Callable[[Any], list[str]]


def checker(schema: dict[str, Any]) -> Checker:
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    return lambda document: [error.message for error in validator.iter_errors(document)]


@pytest.fixture(scope="module")
def mistakes() -> Checker:
    return checker(sweep_schema())


def presets(package: str) -> list[Any]:
    folder = files(package) / "presets"
    return [entry for entry in folder.iterdir() if entry.name.endswith(".yaml")]


def test_every_preset_is_right(mistakes: Checker) -> None:
    assert presets("tune")
    for file in presets("tune"):
        assert mistakes(parse_yaml(file.read_text(), file.name)) == [], file.name
    of_a_trial = checker(trial_schema())
    for file in presets("decrop"):
        assert of_a_trial(parse_yaml(file.read_text(), file.name)) == [], file.name
        whole = TrialConfig.model_validate(load_trial_document(file.name.removesuffix(".yaml")))
        assert of_a_trial(whole.model_dump(mode="json")) == [], file.name


def test_a_file_is_right(mistakes: Checker, tmp_path: Any) -> None:
    assert mistakes(parse_yaml(FILE, "file")) == []
    without = FILE.replace("  classifier.arguments.depth: {choice: [1, 2]}\n", "")
    (path := tmp_path / "mine.yaml").write_text(without)
    assert load_sweep(str(path)).trials == 3


@cases("name", BROKEN)
def test_what_is_wrong_is_wrong_in_an_editor_too(
    name: str, mistakes: Checker, tmp_path: Any
) -> None:
    broken = merge(parse_yaml(FILE, "file"), parse_yaml(BROKEN[name], name))
    assert mistakes(broken)
    del broken["space"]["classifier.arguments.depth"]
    (path := tmp_path / "broken.yaml").write_text(json.dumps(broken))
    with pytest.raises(InputError):
        load_sweep(str(path))


def test_every_setting_is_listed_with_what_it_takes() -> None:
    every = {setting.path: setting for setting in all_settings()}
    assert list(every) == [*field_paths(), *field_paths(SweepConfig)]
    rate = every["training.learning_rate"]
    assert (rate.allowed, rate.default, rate.searched) == ("number, above 0", 0.001, True)
    assert every["sigma"].searched is False
    assert every["trials"].searched is None
    assert every["seeds"].allowed == "whole number, at least 1, at most 10000"
    assert every["boundary.attack"].allowed == "pgd | auto_attack | deepfool"
    assert every["name"].required
    assert all(setting.description for setting in every.values())
