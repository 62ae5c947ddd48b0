"""Domains: one contract for all kinds, and every way to write a wrong one."""

from typing import Any

import optuna
import pytest
from pydantic import ValidationError

from decrop.config.trial import MEASURING, VARIED_BY_TABLES, measures
from decrop.documents import field_paths
from tests.cases import cases
from tests.refusals import one_line
from tune.domains import Domain, check_space, exists, ordered
from tune.study import distribution

# Kind, a value inside, values outside.
KINDS: dict[str, tuple[dict[str, Any], Any, list[Any]]] = {
    "uniform": ({"uniform": [0, 8]}, 0.3, [-0.1, 8.1, "1", True, None]),
    "single value": ({"uniform": [2, 2]}, 2.0, [1.9, 2.1]),
    "loguniform": ({"loguniform": [1e-4, 1e-2]}, 1e-3, [9e-5, 0.011, "x"]),
    "int": ({"int": [1, 16]}, 16, [0, 17, 1.5, "1", False]),
    "int with step": ({"int": [10, 100], "step": 10}, 50, [5, 55, 110]),
    "choice of words": ({"choice": ["adam", "sgd"]}, "sgd", ["adamw", None, 0]),
    "choice of numbers": ({"choice": [1, 2, 5]}, 5, [3, "1"]),
    "choice with null": ({"choice": [None, True]}, None, ["null", 2]),
}


def domain(**given: Any) -> Domain:
    return Domain.model_validate(given)


@cases("kind", KINDS)
def test_domain_and_its_distribution_hold_the_same_values(kind: str) -> None:
    given, inside, outside = KINDS[kind]
    made = domain(**given)
    assert made.contains(inside)
    described = distribution(made)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = {study.ask({"x": described}).params["x"] for _ in range(100)}
    assert all(made.contains(value) for value in drawn)
    assert described.to_external_repr(described.to_internal_repr(inside)) == inside
    assert not any(made.contains(value) for value in outside)


def test_ends_and_choices_are_checked_values() -> None:
    assert domain(int=[3, 7]).values_to_check() == (3, 7)
    assert domain(choice=["a", "b"]).values_to_check() == ("a", "b")
    low, high, between = domain(uniform=[1, 3]).values_to_check()
    assert (low, high) == (1, 3)
    assert low < between < high and between != int(between)


@cases(
    ("given", "expected"),
    [
        ({}, "must be one of"),
        ({"uniform": [0, 1], "choice": [1]}, "must be one of"),
        ({"uniform": [1, 0]}, "must not exceed"),
        ({"uniform": [0]}, "required"),
        ({"uniform": [0, float("inf")]}, "finite"),
        ({"loguniform": [0, 1]}, "greater than 0"),
        ({"int": [0.5, 1]}, "integer"),
        ({"int": [0, 10], "step": 3}, "multiple of step"),
        ({"int": [0, 10], "step": 0}, "greater than or equal to 1"),
        ({"uniform": [0, 1], "step": 2}, "step belongs to int"),
        ({"choice": []}, "at least 1"),
        ({"choice": [[1], [2]]}, "must be a string"),
        ({"choice": [1, 1.0]}, "must differ"),
        ({"choise": [1]}, "Extra inputs"),
        ({"uniform": [0, 1], "when": {"a": [[1]]}}, "must be a string"),
        ({"uniform": [0, 1], "when": {"a": []}}, "a list of 1 to"),
    ],
)
def test_wrong_domain_is_refused(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        domain(**given)


def checked(space: dict[str, dict[str, Any]], document: dict[str, Any] | None = None) -> str:
    """Return the message with which a space is refused."""
    made = {path: domain(**given) for path, given in space.items()}
    text = one_line(check_space, made, document or {}, source="my.yaml")
    assert "\n" not in text and text.startswith("my.yaml: space")
    return text


@cases(
    ("path", "given", "parts"),
    [
        ("interpolation.mixing_coefficient", {"uniform": [-0.5, 1]}, ["= -0.5", "equal to 0"]),
        ("interpolation.mixing_coefficient", {"uniform": [0, 1.5]}, ["= 1.5", "equal to 1"]),
        ("interpolation.count", {"int": [1, 17]}, ["= 17", "16"]),
        ("training.learning_rate", {"uniform": [0, 1]}, ["= 0.0", "greater than 0"]),
        ("denoiser.channels", {"uniform": [16, 64]}, ["valid integer", "fractional part"]),
        ("denoiser.channels", {"loguniform": [16, 64]}, ["valid integer"]),
        ("boundary.attack", {"choice": ["pgd", "pdg"]}, ["boundary.attack = 'pdg'", "'pgd'"]),
        ("boundary.attack", {"uniform": [0, 1]}, ["boundary.attack"]),
        ("training.loss_weights", {"uniform": [0, 1]}, ["mapping of label_consistency, cosine"]),
        (
            "training.loss_weights.cosin",
            {"uniform": [0, 1]},
            ["not a setting", "nearest: training.loss_weights.cosine"],
        ),
        ("learning_rate", {"uniform": [0.1, 1]}, ["not a setting", "training.learning_rate"]),
        ("training.epochs.x", {"int": [1, 2]}, ["training.epochs"]),
    ],
)
def test_space_outside_the_schema_is_refused(
    path: str, given: dict[str, Any], parts: list[str]
) -> None:
    text = checked({path: given})
    assert f"space.{path}: " in text
    for part in parts:
        assert part in text


# What a trial trains; all other settings decide how it is measured.
TRAINED = ("boundary", "classifier", "denoiser", "interpolation", "prior", "training", "seed")


def test_every_setting_is_one_to_search_over_or_one_that_measures() -> None:
    measuring = {path for path in field_paths() if measures(path)}
    assert {path.split(".")[0] for path in set(field_paths()) - measuring} == {
        *TRAINED,
        "execution",
    }
    assert [path for path in field_paths() if not measures(path) and "execution." in path] == [
        "execution.training_precision"
    ]
    # The names of the list are those of the schema.
    for name in MEASURING:
        assert name in measuring or any(path.startswith(f"{name}.") for path in measuring)
    assert set(VARIED_BY_TABLES) <= set(MEASURING)


@cases(
    ("path", "given"),
    [
        ("sigma", {"uniform": [0.1, 1]}),
        ("certification.failure_probability", {"loguniform": [0.001, 0.1]}),
        ("certification.held_out_samples", {"int": [100, 1000]}),
        ("certification.test_images", {"choice": [100]}),
        ("certification.radii", {"choice": [0.5]}),
        ("dataset.path", {"choice": ["here", "there"]}),
        ("limited.held_out_fraction", {"uniform": [0.1, 0.5]}),
        ("classifier.surrogate.epochs", {"int": [1, 9]}),
        ("execution.precision", {"choice": ["fp32", "bf16"]}),
    ],
)
def test_what_measures_is_not_searched_over(path: str, given: dict[str, Any]) -> None:
    text = checked({path: given})
    assert f"space.{path}: must be the same in all trials" in text
    assert text.endswith("set it under trial.")


def test_domain_is_checked_in_place() -> None:
    given = {"classifier.training.epochs": {"int": [1, 5]}}
    trained = {"classifier": {"source": "small_cnn", "training": None}}
    made = {path: domain(**kind) for path, kind in given.items()}
    check_space(made, trained, source="my.yaml")
    assert "not both" in checked(given, {"classifier": {"weights": "w"}})
    assert "name the source to train" in checked(given, {"classifier": {"training": None}})


def test_domain_is_checked_under_its_conditions() -> None:
    def space(when: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return {
            "classifier.weights": {"choice": [None, "w.safetensors"]},
            "classifier.training.epochs": {"int": [1, 5], "when": when},
        }

    named = {"classifier": {"source": "small_cnn"}}
    made = {path: domain(**given) for path, given in space({"classifier.weights": None}).items()}
    check_space(made, named, source="my.yaml")
    assert "not both" in checked(space({"classifier.weights": "w.safetensors"}), named)


def test_domain_is_checked_under_a_condition_on_another_setting_of_its_group() -> None:
    def space(source: str) -> dict[str, dict[str, Any]]:
        return {
            "classifier.source": {"choice": ["auto", "small_cnn"]},
            "classifier.training.epochs": {
                "int": [1, 5],
                "when": {"classifier.source": source},
            },
        }

    made = {path: domain(**given) for path, given in space("small_cnn").items()}
    check_space(made, {}, source="my.yaml")
    assert "name the source to train" in checked(space("auto"))


def test_condition_may_name_several_values() -> None:
    given = {
        "boundary.attack": {"choice": ["pgd", "auto_attack", "deepfool"]},
        "boundary.epsilon": {
            "uniform": [0.05, 0.2],
            "when": {"boundary.attack": ["pgd", "auto_attack"]},
        },
    }
    space = {path: domain(**kind) for path, kind in given.items()}
    check_space(space, {}, source="my.yaml")
    existing = [a for a in given["boundary.attack"]["choice"] if exists_for(space, a)]
    assert existing == ["pgd", "auto_attack"]
    again = Domain.model_validate_json(space["boundary.epsilon"].model_dump_json())
    assert again == space["boundary.epsilon"]


def exists_for(space: dict[str, Domain], attack: str) -> bool:
    return exists(space["boundary.epsilon"], {"boundary.attack": attack})


def test_domain_is_checked_under_each_value_of_its_condition() -> None:
    space = {
        "classifier.weights": {"choice": [None, "w.safetensors"]},
        "classifier.training.epochs": {
            "int": [1, 5],
            "when": {"classifier.weights": [None, "w.safetensors"]},
        },
    }
    assert "not both" in checked(space, {"classifier": {"source": "small_cnn"}})


def test_values_under_conditions_are_not_checked_without_end() -> None:
    many = list(range(9_000))
    space = {
        "seed": {"choice": many},
        "training.epochs": {"choice": [1, 2], "when": {"seed": many}},
    }
    assert "10,000 is the most" in checked(space)


OPTIMIZER = {"choice": ["adam", "sgd", "adam_then_sgd"]}


@cases(
    ("space", "parts"),
    [
        (
            {"training.adam_epochs": {"int": [1, 9], "when": {"training.optimiser": "adam"}}},
            ["training.optimiser", "no choice of this space"],
        ),
        (
            {
                "training.optimizer": OPTIMIZER,
                "training.adam_epochs": {"int": [1, 9], "when": {"training.optimizer": "adamw"}},
            },
            ["training.optimizer = 'adamw'", "'adam', 'sgd', 'adam_then_sgd'"],
        ),
        (
            {
                "seed": {"int": [1, 9]},
                "training.adam_epochs": {"int": [1, 9], "when": {"seed": 3}},
            },
            ["seed", "no choice of this space"],
        ),
        (
            {
                "training.optimizer": {**OPTIMIZER, "when": {"interpolation.mode": "published"}},
                "interpolation.mode": {
                    "choice": ["as_written", "published"],
                    "when": {"training.optimizer": "sgd"},
                },
            },
            ["circle", "training.optimizer -> "],
        ),
        (
            {"training.optimizer": {**OPTIMIZER, "when": {"training.optimizer": "sgd"}}},
            ["circle"],
        ),
        (
            {
                "training.optimizer": OPTIMIZER,
                "training.adam_epochs": {
                    "int": [1, 9],
                    "when": {"training.optimizer": ["sgd", "adamw"]},
                },
            },
            ["training.optimizer = 'adamw'"],
        ),
        (
            {
                "interpolation.mode": {"choice": ["as_written", "published"]},
                "training.optimizer": {**OPTIMIZER, "when": {"interpolation.mode": "published"}},
                "training.adam_epochs": {
                    "int": [1, 9],
                    "when": {"training.optimizer": "adam", "interpolation.mode": "as_written"},
                },
            },
            ["space.training.adam_epochs", "no trial has it", "interpolation.mode"],
        ),
    ],
)
def test_wrong_condition_is_refused(space: dict[str, Any], parts: list[str]) -> None:
    text = checked(space)
    for part in parts:
        assert part in text


def test_conditions_come_first_in_the_order() -> None:
    space = {
        "a": domain(uniform=[0, 1], when={"b": 1}),
        "b": domain(choice=[1], when={"c": 1}),
        "c": domain(choice=[1]),
        "d": domain(choice=[1]),
    }
    paths = ordered(space)
    assert sorted(paths) == ["a", "b", "c", "d"]
    assert paths.index("c") < paths.index("b") < paths.index("a")
