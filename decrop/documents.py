"""Settings as YAML documents: read, addressed by dotted paths, merged, and validated."""

import difflib
import itertools
import re
import reprlib
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from decrop.config import TrialConfig
from decrop.errors import InputError, one_line
from decrop.files import read_text

Document = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)

_KEY = re.compile(r"[^.\s]+(\.[^.\s]+)*")
_VALUE_LENGTH = 60
_KEY_LENGTH = 100
# Said of one document, each in a line.
_MOST_MISTAKES = 50
# Of a YAML document: bytes, values once its aliases are followed, their depth, and a number's.
_MOST_BYTES = 256 << 10
_MOST_VALUES = 5_000
_DEEPEST = 32
_LONGEST_NUMBER = 400
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
# Settings of earlier versions, whose files are still read.
_RENAMED = {
    "classifier.architecture": "classifier.source",
    "denoiser.architecture": "denoiser.source",
}


class _Loader(yaml.SafeLoader):
    """Safe loading that also reads `1e-3` as a number, within bounds, and no key given twice."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        # Values and depth of each node: an alias has those of what it repeats.
        self._sizes: dict[int, tuple[int, int]] = {}
        self._depth = self._composed = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        alias = self.check_event(yaml.AliasEvent)
        self._depth += 1
        self._composed += 1
        self._bound(self._composed, self._depth, mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if not alias:
            if node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
                raise _refused("a number too long to read", mark)
            sizes = [self._sizes[id(inner)] for inner in _inner(node)]
            self._sizes[id(node)] = (
                1 + sum(count for count, _ in sizes),
                1 + max((depth for _, depth in sizes), default=0),
            )
        elif id(node) not in self._sizes:
            raise _refused("an alias repeats what it is in", mark)
        count, depth = self._sizes[id(node)]
        self._bound(count, self._depth + depth, mark)
        return node

    def _bound(self, count: int, depth: int, mark: yaml.Mark) -> None:
        if count > _MOST_VALUES:
            raise _refused(f"more than {_MOST_VALUES:,} values", mark)
        if depth > _DEEPEST:
            raise _refused(f"more than {_DEEPEST} lists or mappings inside each other", mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} appears twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, where an exponent without a decimal point is a string.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _inner(node: yaml.Node) -> Iterable[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return itertools.chain.from_iterable(node.value)
    return node.value if isinstance(node, yaml.SequenceNode) else ()


def _refused(problem: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.composer.ComposerError(None, None, problem, mark)


def read_yaml(file: Traversable) -> Document:
    """Read a YAML file that holds a mapping."""
    if isinstance(file, Path):
        text = read_text(file, most_bytes=_MOST_BYTES)
    else:  # in a package that is zipped
        text = file.read_text(encoding="utf-8")
    value = parse_yaml(text, str(file))
    if not isinstance(value, dict):
        raise InputError(f"{file} must hold a mapping of settings, not {show(value)}.")
    document: Document = _by_current_names(value)
    return document


def parse_assignment(text: str) -> tuple[str, Any]:
    """Split `KEY=VALUE` into the dotted key and the value, which is read as YAML."""
    path, equals, value = text.partition("=")
    if not equals or not _KEY.fullmatch(path):
        raise InputError(f"--set {show(text)}: write KEY=VALUE, as in training.epochs=30.")
    return _current_name(path), _by_current_names(parse_yaml(value, f"--set {path}"), path)


def get_dotted(document: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path.

    Raises:
        KeyError: the document has no such value.
    """
    value: Any = document
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise KeyError(path)
        value = value[name]
    return value


def set_dotted(document: Mapping[str, Any], path: str, value: Any) -> Document:
    """Return a copy of the document with the value at a dotted path replaced or added."""
    *groups, name = path.split(".")
    changed = dict(document)
    inner = changed
    for group in groups:
        below = inner.get(group)
        if below is not None and not isinstance(below, Mapping):
            raise InputError(
                f"{path} cannot be set: {group} is {show(below)}, which must be a mapping for that."
            )
        inner[group] = dict(below or {})
        inner = inner[group]
    inner[name] = value
    return changed


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> Document:
    """Return `base` with `overrides` laid over it, mapping by mapping; other values replace."""
    merged = dict(base)
    for name, value in overrides.items():
        below = merged.get(name)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[name] = merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def trial_config(
    document: Mapping[str, Any], *, source: str, assigned: Collection[str] = ()
) -> TrialConfig:
    """Validate the settings of a trial.

    Args:
        document: Nested settings; fields that are not given keep their defaults.
        source: The file or preset the document comes from, for the message.
        assigned: Dotted paths that `--set` gave; their mistakes are blamed on `--set`.
    """
    return validated(TrialConfig, document, source=source, assigned=assigned)


def validated(
    model: type[Model],
    document: Mapping[str, Any],
    *,
    source: str,
    assigned: Collection[str] = (),
) -> Model:
    """Validate a document against a model (see `trial_config`)."""
    try:
        return model.model_validate(dict(document))
    except ValidationError as error:
        problems = _problems(error)
        blamed = [blame(_path(problem["loc"]), source, assigned) for problem in problems]
        lines = [
            f"{whose}: {_explain(problem, model)}."
            for whose, problem in zip(blamed[:_MOST_MISTAKES], problems, strict=False)
        ]
        if len(problems) > _MOST_MISTAKES:
            lines.append(f"{source}: {len(problems) - _MOST_MISTAKES:,} more like these.")
        raise InputError(f"{blamed[0]}: {_summary(problems, model)}.", lines) from None


def blame(path: str, source: str, assigned: Collection[str]) -> str:
    """Return `--set` where a dotted path lies at, under or above an assigned one, else `source`."""
    path = path.partition("[")[0]
    related = any(
        path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.")
        for other in assigned
    )
    return "--set" if related else source


def mistakes_beside(document: Mapping[str, Any], path: str, value: Any) -> str:
    """Say in one line what a value does wrong in a trial's settings; empty if it does nothing.

    What is wrong without the value is not told.
    """
    problems = _problems_of(set_dotted(document, path, value))
    if problems:
        known = [_explain(problem, TrialConfig) for problem in _problems_of(document)]
        problems = [p for p in problems if _explain(p, TrialConfig) not in known]
    return f"{_summary(problems, TrialConfig)}." if problems else ""


def _problems_of(document: Mapping[str, Any]) -> list[ErrorDetails]:
    try:
        TrialConfig.model_validate(dict(document))
    except ValidationError as error:
        return _problems(error)
    return []


def _summary(problems: Sequence[ErrorDetails], model: type[BaseModel]) -> str:
    """Say in one line what is wrong: dotted path, value, what is allowed, and what else is."""
    paths = [_path(problem["loc"]) for problem in problems[1:4]]
    others = ", ".join([*paths[:2], "…"] if len(paths) > 2 else paths)
    more = f" (and {len(problems) - 1:,} more: {others})" if others else ""
    return one_line(_explain(problems[0], model) + more)


def field_paths(model: type[BaseModel] = TrialConfig) -> dict[str, FieldInfo]:
    """Return every setting that is no group by its dotted path, in the order of declaration."""
    paths = {}
    for name, field in model.model_fields.items():
        group = None if get_origin(field.annotation) is dict else _group(field)
        if group is None:
            paths[name] = field
        else:
            paths |= {f"{name}.{inner}": found for inner, found in field_paths(group).items()}
    return paths


def unknown(path: str, same_level: Iterable[str], elsewhere: Iterable[str] = ()) -> str:
    """Say that a dotted path is no setting, and which one is meant.

    That is the nearest of its level, else those of the same name elsewhere, else any of its level.
    """
    path = one_line(path, _KEY_LENGTH)
    name = path.rpartition(".")[2]
    by_name = {other.rpartition(".")[2]: other for other in same_level}
    near = [by_name[other] for other in difflib.get_close_matches(name, by_name, n=1)]
    # A setting written without its group is likelier than one that resembles nothing.
    meant = near or [other for other in elsewhere if other.rpartition(".")[2] == name]
    hint = (
        f"nearest: {' or '.join(meant)}" if meant else f"valid here: {', '.join(by_name.values())}"
    )
    return f"{path} is not a setting; {hint}"


class _WithoutCredentials(reprlib.Repr):
    """Shortens values, and leaves out where URLs may hold passwords or keys."""

    def repr_str(self, x: str, level: int) -> str:
        text = re.sub(r"(https?://)\S*@", r"\1…@", x)
        return super().repr_str(re.sub(r"(https?://[^\s?#]*[?#])\S+", r"\1…", text), level)


def show(value: Any) -> str:
    """Return a short one-line form of a value, for a message."""
    shortener = _WithoutCredentials()
    shortener.maxstring = shortener.maxother = _VALUE_LENGTH
    return shortener.repr(value)


def load_trial_document(name_or_path: str, *, folder: Path | None = None) -> Document:
    """Read a trial preset by name, or a YAML file by path (see `load_document`)."""
    presets = files("decrop") / "presets"
    return load_document(name_or_path, presets, kind="trial preset", folder=folder)


def load_document(
    name_or_path: str, presets: Traversable, *, kind: str, folder: Path | None = None
) -> Document:
    """Read a preset by name, or a YAML file by path.

    What ends in .yaml or .yml or has a slash is a path.

    Args:
        name_or_path: For example `digits` or `./mine.yaml`.
        kind: What the presets are called in messages.
        folder: Where a relative path starts; the working directory if not given.
    """
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        return read_yaml((folder or Path()) / name_or_path)
    names = sorted(
        entry.name.removesuffix(".yaml")
        for entry in presets.iterdir()
        if entry.name.endswith(".yaml")
    )
    if name_or_path not in names:
        raise InputError(
            f"There is no {kind} {show(name_or_path)}; choose one of {', '.join(names)}, or give "
            "a path that ends in .yaml."
        )
    return read_yaml(presets / f"{name_or_path}.yaml")


def _current_name(path: str) -> str:
    """Return a dotted path with the name that the setting at its end has now."""
    for earlier, current in _RENAMED.items():
        if path == earlier or path.endswith(f".{earlier}"):
            return path.removesuffix(earlier) + current
    return path


def _by_current_names(value: Any, path: str = "") -> Any:
    """Rename the keys of a document, nested or dotted, wherever in it the settings stand."""
    if isinstance(value, list):
        return [_by_current_names(item, path) for item in value]
    if not isinstance(value, dict):
        return value
    renamed = {}
    for key, below in value.items():
        inner = f"{path}.{key}" if path else str(key)
        current = _current_name(inner)
        name = key if current == inner else current.removeprefix(f"{path}.")
        # A name given both ways is left for validation to refuse.
        renamed[key if name in value else name] = _by_current_names(below, current)
    return renamed


def parse_yaml(text: str, source: str) -> Any:
    """Return the value of a YAML document (see `read_yaml`); `source` is named in messages."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"{source}{position}: not YAML: {error.problem}.") from None
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        OverflowError,
    ) as error:
        # Characters that YAML forbids, impossible dates, and what PyYAML takes for a mapping.
        raise InputError(f"{source}: not YAML: {error}.") from None


def _problems(error: ValidationError) -> list[ErrorDetails]:
    located = {problem["loc"]: problem for problem in error.errors(include_url=False)}
    # A list with a bad item is also reported as too short.
    above = {location[:-1] for location in located if location}
    return [problem for location, problem in located.items() if location not in above]


def _explain(problem: ErrorDetails, model: type[BaseModel]) -> str:
    location, kind = problem["loc"], problem["type"]
    path = _path(location)
    if kind == "extra_forbidden":
        prefix = "".join(f"{name}." for name in location[:-1])
        same_level = _model_at(location[:-1], model).model_fields
        return unknown(path, [f"{prefix}{name}" for name in same_level], field_paths(model))
    if kind == "missing":
        return f"{path} is missing"
    if kind == "model_type":
        group = _model_at(location, model)
        needed = f"must be a mapping of {', '.join(group.model_fields)}"
    else:
        needed = problem["msg"].removeprefix("Value error, ")
        needed = re.sub(r"^\w+ should", "must", needed).replace("valid dictionary", "mapping")
    return f"{path} = {show(problem['input'])}: {needed}" if path else needed


def _model_at(location: tuple[int | str, ...], model: type[BaseModel]) -> type[BaseModel]:
    """Return the group of settings at the location of an error, past keys of plain mappings."""
    found = model
    for name in location:
        field = found.model_fields.get(str(name))
        found = (_group(field) if field else None) or found
    return found


def _group(field: FieldInfo) -> type[BaseModel] | None:
    """Return the nested model of a field, also of an optional one or of a mapping's values."""
    for candidate in (field.annotation, *get_args(field.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _path(location: tuple[int | str, ...]) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return one_line("".join(parts).removeprefix("."), _KEY_LENGTH)
