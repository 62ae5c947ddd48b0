"""JSON schemas of sweep files and trial files, and all settings that they may hold."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from decrop.config import TrialConfig
from decrop.config.trial import measures
from decrop.documents import field_paths
from tune.sweep_file import SweepConfig

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_KINDS = ("uniform", "loguniform", "int", "choice")
# From here on a bound only keeps strangers' files from harm.
_NO_BOUND = 1e8


@dataclass(frozen=True)
class Setting:
    """A setting of a sweep file or a trial.

    Attributes:
        path: dotted.
        allowed: type and range, in words.
        default: None where it is null, or must be given (`required`).
        required: whether it must be given.
        description: with the source of the default where there is one.
        searched: whether a sweep may vary it; None of the sweep's own.
    """

    path: str
    allowed: str
    default: Any
    required: bool
    description: str
    searched: bool | None


def trial_schema() -> dict[str, Any]:
    """Return the JSON schema of a trial's settings."""
    return {"$schema": _DIALECT, **TrialConfig.model_json_schema()}


def sweep_schema() -> dict[str, Any]:
    """Return the JSON schema of a sweep file, with the settings of its trials, space and rows.

    It names the settings that may stand in each place; what depends on others (such as `trials`,
    which a grid must not have) is checked by `decrop sweep --dry-run` alone.
    """
    schema, trial = SweepConfig.model_json_schema(), TrialConfig.model_json_schema()
    settings = {path: _found(trial, path) for path in field_paths()}
    groups = trial.pop("$defs")
    domains = {
        path: {"$ref": "#/$defs/Domain", "description": found.get("description", "")}
        for path, found in settings.items()
        if not measures(path)
    }
    # Of mappings, such as classifier.arguments.depth, any name.
    free = "|".join(re.escape(path) for path, found in settings.items() if "bounded" in found)
    below = rf"^({free})\."
    schema["$defs"] |= {**groups, "TrialSettings": trial}
    schema["$defs"]["Domain"]["oneOf"] = [{"required": [kind]} for kind in _KINDS]
    properties = schema["properties"]
    properties["trial"] = {
        "$ref": "#/$defs/TrialSettings",
        "description": properties["trial"]["description"],
    }
    properties["space"] |= {
        "properties": domains,
        "patternProperties": {below: {"$ref": "#/$defs/Domain"}},
        "additionalProperties": False,
    }
    properties["rows"]["patternProperties"] = {
        pattern: {
            "type": "object",
            "properties": settings,
            "patternProperties": {below: {}},
            "additionalProperties": False,
        }
        for pattern in properties["rows"]["patternProperties"]
    }
    return {"$schema": _DIALECT, **schema}


def all_settings() -> Iterator[Setting]:
    """List every setting: those of trials, then those of sweep files."""
    for model in (TrialConfig, SweepConfig):
        schema = model.model_json_schema()
        for path, field in field_paths(model).items():
            yield Setting(
                path=path,
                allowed=_in_words(_found(schema, path)),
                default=None if field.is_required() else field.get_default(),
                required=field.is_required(),
                description=field.description or "",
                searched=not measures(path) if model is TrialConfig else None,
            )


def _found(schema: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the schema of the setting at a dotted path."""
    found = schema
    for name in path.split("."):
        found = next(
            group["properties"][name]
            for group in _groups(found, schema["$defs"])
            if name in group.get("properties", {})
        )
    return found


def _groups(found: dict[str, Any], groups: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """List the groups of settings that a schema may stand for."""
    if "$ref" in found:
        yield groups[found["$ref"].rpartition("/")[2]]
    yield found
    for inner in [*found.get("anyOf", ()), found.get("items")]:
        if isinstance(inner, dict):
            yield from _groups(inner, groups)


def _in_words(schema: Mapping[str, Any]) -> str:
    """Say which values a schema allows."""
    if "anyOf" in schema:
        # Bounds beside the alternatives are of all.
        outer = {name: bound for name, bound in schema.items() if name != "anyOf"}
        return " or ".join(_in_words({**one, **outer}) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " | ".join(map(str, schema.get("enum", [schema.get("const")])))
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return ("whole number" if kind == "integer" else "number") + _range(schema)
    if kind == "array":
        items = schema.get("prefixItems") or [schema.get("items", {})]
        inner = " and ".join(dict.fromkeys(map(_in_words, items)))
        count = f"{len(items)} " if len(items) > 1 else ""
        return f"list of {count}{inner.replace('number', 'numbers')}"
    words = {"boolean": "true | false", "string": "text", "null": "null"}
    return words.get(str(kind), "mapping")


def _range(schema: Mapping[str, Any]) -> str:
    ends = {
        "exclusiveMinimum": "above",
        "minimum": "at least",
        "exclusiveMaximum": "below",
        "maximum": "at most",
    }
    said = [
        f", {words} {schema[name]:.6g}"
        for name, words in ends.items()
        if name in schema and abs(schema[name]) < _NO_BOUND
    ]
    return "".join(said)
