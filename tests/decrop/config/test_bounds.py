"""Every setting, and every record that is read from a file, is bounded where it is declared."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import Field, ValidationError

import decrop
import tune
from decrop.config import Count, Settings, TrialConfig
from decrop.config.settings import bounded, different_names
from decrop.documents import set_dotted, trial_config
from tests.cases import cases
from tests.refusals import one_line

_CHOSEN = {"enum", "const", "$ref", "bounded"}
# Whose JSON schema needs no bound, because its form has one.
_FORMS = {"date-time"}


def groups() -> Iterator[type[Settings]]:
    for package in (decrop, tune):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            # Triton comes with PyTorch for CUDA.
            if not module.name.endswith(("__main__", "noise_kernel")):
                importlib.import_module(module.name)
    pending = Settings.__subclasses__()
    while pending:
        group = pending.pop()
        pending += group.__subclasses__()
        if not group.__module__.startswith("tests."):
            yield group


def unbounded(schema: Any, path: str) -> Iterator[str]:
    """Name what a JSON schema leaves open, at any depth."""
    schema = schema if isinstance(schema, dict) else {}
    kind = schema.get("type")
    for alternative in [*schema.get("anyOf", ()), *schema.get("oneOf", ())]:
        yield from unbounded(alternative, path)
    if schema.keys() & (_CHOSEN | {"anyOf", "oneOf"}) or kind in ("boolean", "null"):
        return
    if kind in ("integer", "number"):
        for end in ("maximum", "minimum"):
            if not schema.keys() & {end, f"exclusive{end.capitalize()}"}:
                yield f"{path} has no {end}"
    elif kind == "string":
        if "maxLength" not in schema and schema.get("format") not in _FORMS:
            yield f"{path} has no maxLength"
    elif kind == "array":
        if "maxItems" not in schema:
            yield f"{path} has no maxItems"
        for item in [*schema.get("prefixItems", ()), *filter(None, [schema.get("items")])]:
            yield from unbounded(item, f"{path}[]")
    elif kind == "object" and "properties" in schema:
        if schema.get("additionalProperties") is not False:
            yield f"{path} takes further properties"
        for name, inner in schema["properties"].items():
            yield from unbounded(inner, f"{path}.{name}")
    elif kind == "object":
        if "maxProperties" not in schema:
            yield f"{path} has no maxProperties"
        if "patternProperties" in schema:  # says nothing of how long they may be
            values = schema["patternProperties"].values()
        else:
            values = [schema.get("additionalProperties")]
            names = {"type": "string", **schema.get("propertyNames", {})}
            yield from unbounded(names, f"{path}: its names")
        for value in values:
            yield from unbounded(value, f"{path}: its values")
    else:
        yield f"{path} may be anything"


def test_every_number_text_and_collection_of_settings_is_bounded() -> None:
    found, names = set(), set()
    for group in groups():
        schema = group.model_json_schema()
        names.add(group.__name__)
        for name, definition in {**schema.pop("$defs", {}), group.__name__: schema}.items():
            # Dataclasses refuse other fields when they are called.
            found |= set(unbounded({"additionalProperties": False, **definition}, name))
    assert sorted(found) == []
    assert {"TrialConfig", "SweepConfig", "RejectorSettings", "_Document", "_Description"} <= names


def test_of_two_bounds_the_narrower_holds() -> None:
    class Narrow(Settings):
        few: Count = Field(default=1, le=5)
        many: Count = Field(default=3, ge=2)

    for given in ({"few": 6}, {"many": 1}, {"few": 0}):
        with pytest.raises(ValidationError):
            Narrow(**given)
    assert Narrow(few=5, many=2).few == 5


@cases(
    ("path", "value"),
    [
        ("sigma", 1e308),
        ("seed", 2**63),
        ("training.epochs", 10**18),
        ("certification.estimation_samples", 10**18),
        ("certification.radius_step", 1e-300),
        ("certification.failure_probability", 0.9999),
        ("execution.chunks_per_batch", 10**12),
        ("execution.chunks_per_batch", 999_999),
        ("dataset.path", "x" * 5000),
        ("classifier.arguments", {"depth": 10**30}),
        ("classifier.arguments", {"sizes": [0] * 200_000}),
    ],
)
def test_senseless_settings_are_named_in_one_line(path: str, value: Any) -> None:
    said = one_line(trial_config, set_dotted({}, path, value), source="my.yaml")
    assert path.rpartition(".")[2] in said
    assert len(said) < 400


def test_free_values_are_bounded_in_number_depth_and_length() -> None:
    deep: Any = 0
    for _ in range(33):
        deep = [deep]
    for value in (deep, [0] * 100_001, ["x" * 5000], 2**63, -(2**63) - 1):
        with pytest.raises(ValueError, match=r"at most|64 bits"):
            bounded(value)
    value = {"a": [1, 2.5, None, {"b": "c"}]}
    assert bounded(value) is value


@cases("names", [(), ("one",), ("a", "a"), ("a", ""), ("a", " b"), ("a", "b\n"), ("a", "b" * 300)])
def test_names_of_classes_are_at_least_two_that_differ(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="classes"):
        different_names(names)


def test_defaults_are_within_their_bounds() -> None:
    assert trial_config(TrialConfig().model_dump(), source="defaults") == TrialConfig()
