"""Settings as documents: every mistake is one line that says what to write instead."""

import operator
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from decrop.config import TrialConfig
from decrop.config.classifier_training import ClassifierTrainingSettings
from decrop.documents import (
    field_paths,
    get_dotted,
    load_trial_document,
    merge,
    parse_assignment,
    read_yaml,
    set_dotted,
    trial_config,
)
from decrop.errors import InputError
from tests.cases import cases
from tests.refusals import one_line

PRESETS = sorted(
    entry.name.removesuffix(".yaml")
    for entry in (files("decrop") / "presets").iterdir()
    if entry.name.endswith(".yaml")
)


def written(folder: Path, text: str) -> Path:
    path = folder / "trial.yaml"
    path.write_text(text)
    return path


def preset(name: str) -> TrialConfig:
    return trial_config(load_trial_document(name), source=name)


@cases("name", PRESETS)
def test_preset_is_a_trial(name: str) -> None:
    # That of any data and classifier is not named by them.
    assert preset(name).dataset.name in name.split("_") or name.startswith("recommended")


def test_cifar10_preset_is_the_default_and_asks_for_weights_that_any_network_may_fit() -> None:
    config = preset("cifar10")
    assert config == TrialConfig()
    assert config.sigma == 0.25
    assert config.classifier.source == "auto"
    assert config.classifier.training is None
    assert config.classifier.weights is None
    given = set_dotted(load_trial_document("cifar10"), "classifier.weights", "w.safetensors")
    assert trial_config(given, source="cifar10").classifier.weights == "w.safetensors"


def test_unknown_preset_lists_the_presets() -> None:
    text = one_line(load_trial_document, "digit")
    assert all(name in text for name in ["'digit'", *PRESETS])


def test_file_is_read_by_path(tmp_path: Path) -> None:
    path = written(tmp_path, "sigma: 0.5")
    assert load_trial_document(str(path)) == {"sigma": 0.5}
    assert load_trial_document("trial.yaml", folder=tmp_path) == {"sigma": 0.5}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sigma: [0.25", "line 1, column 13"),
        ("seed: 1\nsigma: 0.25\nseed: 2\n", "line 3, column 1: not YAML: the key 'seed' appears"),
        ("training: {epochs: 1, epochs: 2}", "column 23"),
        ("- sigma", "must hold a mapping of settings, not ['sigma']"),
        ("", "must hold a mapping of settings, not None"),
        ("sigma: !!python/name:os.system", "line 1, column 8"),
        ("sigma: 2025-02-31", "not YAML"),
        ("sigma: \x00", "not YAML"),
    ],
)
def test_unusable_file_is_named_with_the_position(tmp_path: Path, text: str, expected: str) -> None:
    path = written(tmp_path, text)
    text = one_line(read_yaml, path)
    assert text.startswith(str(path))
    assert expected in text


def test_missing_and_binary_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml does not exist"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match=r"binary\.yaml is not UTF-8"):
        read_yaml(tmp_path / "binary.yaml")
    with pytest.raises(InputError, match="is a folder, not a regular file"):
        read_yaml(tmp_path)


@cases(
    ("text", "expected"),
    [
        ("seed=3", ("seed", 3)),
        ("training.learning_rate=1e-3", ("training.learning_rate", 0.001)),
        ("sigma=2E5", ("sigma", 200000.0)),
        ("certification.radii=[0, 0.5]", ("certification.radii", [0, 0.5])),
        ("dataset.path=/data/a=b", ("dataset.path", "/data/a=b")),
        ("classifier.training=null", ("classifier.training", None)),
        ("dataset.path=", ("dataset.path", None)),
        ("space.sigma={uniform: [0.1, 1]}", ("space.sigma", {"uniform": [0.1, 1]})),
    ],
)
def test_assignment_is_a_path_and_a_yaml_value(text: str, expected: tuple[str, Any]) -> None:
    parsed = parse_assignment(text)
    assert parsed == expected
    assert type(parsed[1]) is type(expected[1])


@cases("text", ["seed", "=3", ".seed=3", "a..b=3", "a.=3", "a b=3", "seed=[1"])
def test_malformed_assignment_is_refused(text: str) -> None:
    text = one_line(parse_assignment, text)
    assert text.startswith("--set")


def test_set_and_get_leave_the_document_alone() -> None:
    document = {"a": {"b": 1, "c": 2}, "d": None}
    changed = set_dotted(set_dotted(document, "a.b", 5), "d.e.f", 6)
    assert changed == {"a": {"b": 5, "c": 2}, "d": {"e": {"f": 6}}}
    assert document == {"a": {"b": 1, "c": 2}, "d": None}
    assert get_dotted(changed, "d.e.f") == 6
    assert get_dotted(changed, "a") == {"b": 5, "c": 2}
    with pytest.raises(KeyError):
        get_dotted(changed, "a.b.c")


def test_setting_below_a_value_is_refused() -> None:
    with pytest.raises(InputError, match="seed is 3"):
        set_dotted({"seed": 3}, "seed.x", 1)


def test_merge_goes_into_mappings_only() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}}
    assert merge(base, {"a": {"c": [3]}, "d": None, "f": 1}) == {
        "a": {"b": 1, "c": [3]},
        "d": None,
        "f": 1,
    }
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}}


@cases(
    ("document", "parts"),
    [
        ({"training": {"epochs": 0}}, ["training.epochs = 0", "greater than or equal to 1"]),
        ({"sigma": "wide"}, ["sigma = 'wide'", "valid number"]),
        ({"sigma": float("nan")}, ["sigma = nan", "finite"]),
        ({"limited": {"fraction": 1.5}}, ["limited.fraction = 1.5", "less than or equal to 1"]),
        ({"interpolation": {"mode": "x"}}, ["mode = 'x'", "'as_written' or 'published'"]),
        ({"dataset": "cifar10"}, ["dataset = 'cifar10'", "mapping of name, path"]),
        ({"certification": {"radii": [0, -1]}}, ["certification.radii[1] = -1", "0"]),
        ({"certification": {"radii": [1, 0]}}, ["radii must increase"]),
        ({"classifier": {"training": {}}}, ["classifier = ", "name the source to train"]),
        (
            {"classifier": {"training": {"epoch": 3}}},
            ["classifier.training.epoch is not a setting", "nearest: classifier.training.epochs"],
        ),
        ({"sigmas": 1}, ["sigmas is not a setting", "nearest: sigma."]),
        ({"mixing_coefficient": 1}, ["nearest: interpolation.mixing_coefficient"]),
        ({"denoiser": {"xyz": 1}}, ["valid here: denoiser.source, denoiser.arguments"]),
        ({"seed": -1, "sigma": -1}, ["seed = -1", "(and 1 more: sigma)"]),
        ({"dataset": {"path": "x\ny" * 100, "nam": 1}}, ["dataset.nam"]),
        ({"dataset": {"name": "a\nb" * 100}}, ["dataset.name"]),
        ({"training": {1: 2}}, ["training"]),
    ],
)
def test_mistake_in_a_trial_is_one_line(document: dict[str, Any], parts: list[str]) -> None:
    text = one_line(trial_config, document, source="my.yaml")
    assert text.startswith("my.yaml: ")
    assert len(text) < 400
    for part in parts:
        assert part in text


@cases(
    ("assigned", "blamed"),
    [
        (["training.epochs"], "--set: "),
        (["training"], "--set: "),
        (["training.epochs.x"], "--set: "),
        (["training.epoch", "seed"], "my.yaml: "),
    ],
)
def test_mistake_is_blamed_on_set_only_if_made_there(assigned: list[str], blamed: str) -> None:
    text = one_line(trial_config, {"training": {"epochs": 0}}, source="my.yaml", assigned=assigned)
    assert text.startswith(blamed)


def test_mistake_inside_a_list_is_blamed_on_set() -> None:
    document = {"certification": {"radii": [-1]}}
    with pytest.raises(InputError, match=r"^--set"):
        trial_config(document, source="my.yaml", assigned=["certification.radii"])


def test_field_paths_are_all_leaves_and_each_can_be_set() -> None:
    paths = field_paths()
    assert paths["training.loss_weights.cosine"].description == "beta 2 (paper: 4)."
    assert "training.loss_weights" not in paths
    nested = [path for path in paths if path.startswith("classifier.training.")]
    assert len(nested) == len(ClassifierTrainingSettings.model_fields)
    # Only a named architecture can be trained, and only a URL be asked and imitated.
    url = "http://localhost/"
    sources = {
        "classifier.training": "small_cnn",
        "classifier.endpoint": url,
        "classifier.surrogate": url,
    }
    for path, field in paths.items():
        default = field.get_default()
        source = sources.get(path.rpartition(".")[0])
        base = {"classifier": {"source": source}} if source else {}
        config = trial_config(set_dotted(base, path, default), source="defaults")
        # A dump leaves some settings out where they are the default.
        assert operator.attrgetter(path)(config) == default


def test_earlier_names_are_read_wherever_settings_stand(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "trial: {classifier: {architecture: resnet12}, denoiser: {source: unet}}\n"
        "space: {classifier.architecture: {choice: [resnet12, alexnet]}}\n"
        "rows: {first: {classifier.architecture: alexnet}}\n"
    )
    assert read_yaml(path) == {
        "trial": {"classifier": {"source": "resnet12"}, "denoiser": {"source": "unet"}},
        "space": {"classifier.source": {"choice": ["resnet12", "alexnet"]}},
        "rows": {"first": {"classifier.source": "alexnet"}},
    }
    assert parse_assignment("classifier.architecture=vgg") == ("classifier.source", "vgg")
    assert parse_assignment("classifier={architecture: vgg}") == ("classifier", {"source": "vgg"})
    path.write_text("classifier: {architecture: resnet12, source: resnet18}")
    assert set(read_yaml(path)["classifier"]) == {"architecture", "source"}


def test_an_earlier_name_is_laid_over_the_current_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("classifier: {architecture: resnet12}")
    merged = merge(load_trial_document("digits"), load_trial_document(str(path)))
    assert trial_config(merged, source="test").classifier.source == "resnet12"


LAUGHS = "a: &a [x, x]\n" + "".join(f"k{i}: &k{i} [*k{i - 1}, *k{i - 1}]\n" for i in range(1, 40))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS.replace("*k0", "*a"), "more than 5,000 values"),
        ("a: [" + "0, " * 20_000 + "]", "more than 5,000 values"),
        ("a: " + "[" * 5_000, "more than 32 lists or mappings inside each other"),
        (
            "k0: &k0 [1]\n" + "".join(f"k{i}: &k{i} [*k{i - 1}]\n" for i in range(1, 50)),
            "more than 32 lists or mappings inside each other",
        ),
        ("a: &a [*a]", "an alias repeats what it is in"),
        ("a: 0x" + "f" * 10_000, "a number too long to read"),
        ("a: 1" + ":1" * 10_000 + ".5", "a number too long to read"),
        ("a: 0x_", "invalid literal for int"),
        ("a: '" + "x" * 300_000 + "'", "at most 262,144 are read"),
    ],
)
def test_documents_that_would_grow_are_refused_in_one_line(
    text: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    text = one_line(read_yaml, tmp_path / "mine.yaml")
    assert re.search(said, text) and len(text) < 400


def test_aliases_and_merges_are_read(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("a: &a {x: [1, 2]}\nb: *a\nc: {<<: *a, y: 3}\n")
    x = {"x": [1, 2]}
    assert read_yaml(tmp_path / "mine.yaml") == {"a": x, "b": x, "c": {**x, "y": 3}}


@pytest.mark.parametrize("count", [5, 100_000])
def test_many_mistakes_are_one_line_that_names_the_first(count: int) -> None:
    text = one_line(trial_config, {f"k{i}": 0 for i in range(count)}, source="my.yaml")
    assert "k0 is not a setting" in text
    assert text.endswith(f"(and {count - 1:,} more: k1, k2, …).")


def test_a_key_of_any_length_is_cut(tmp_path: Path) -> None:
    text = one_line(trial_config, {"k" * 1_000_000: 0, "\x1b[31m\nred": 1}, source="my.yaml")
    assert "is not a setting" in text and len(text) < 400 and "\x1b" not in text
