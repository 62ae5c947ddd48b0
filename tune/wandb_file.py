"""Sweep files of Weights & Biases, whose users are told how each key is written here."""

from collections.abc import Iterator, Mapping
from typing import Any

from decrop.documents import field_paths, show
from decrop.errors import InputError

_SEARCHES = {"bayes": "tpe", "random": "random", "grid": "grid"}
# Of Weights & Biases alone, and what stands in their place.
_KEYS = {
    "metric": "write objectives: [acr], or others that `decrop settings objectives` lists",
    "early_terminate": "write pruning: {enabled: true}; `decrop settings pruning`",
    "program": "drop it; decrop runs the trials itself",
    "command": "drop it; decrop runs the trials itself",
    "project": "drop it; the sweep's name names its experiment in MLflow",
    "entity": "drop it; the sweep's name names its experiment in MLflow",
}
_MOST_PARAMETERS = 50


def refuse_wandb(document: Mapping[str, Any], *, source: str) -> None:
    """Refuse a sweep file of Weights & Biases, with a line for each key that is other here."""
    if "parameters" not in document or "space" in document:
        return
    lines = [f"{source}: {line}." for line in _lines(document)]
    raise InputError(f"{source} is a sweep file of Weights & Biases: {lines[0]}", lines)


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "`parameters` is of Weights & Biases; here `trial:` has the settings that stay and "
        "`space:` those that vary, by their dotted paths (`decrop settings`)"
    )
    if "method" in document:
        found = _SEARCHES.get(str(document["method"]), "tpe")
        yield f"method = {show(document['method'])}: write search: {found}"
    if "run_cap" in document:
        yield f"run_cap = {show(document['run_cap'])}: write trials: {show(document['run_cap'])}"
    for key, instead in _KEYS.items():
        if key in document:
            yield f"{key} = {show(document[key])}: {instead}"
    parameters = document["parameters"]
    if not isinstance(parameters, Mapping):
        return
    for name, given in list(parameters.items())[:_MOST_PARAMETERS]:
        yield f"parameters.{name} = {show(given)}: {_instead(str(name), given)}"


def _instead(name: str, given: Any) -> str:
    path = _path_of(name)
    if not isinstance(given, Mapping):
        given = {"value": given}
    if "value" in given:
        return f"write {path}: {show(given['value'])} under trial"
    if "values" in given:
        return f"write {path}: {{choice: {show(given['values'])}}} under space"
    if "min" not in given or "max" not in given:
        return f"write {path}: {{choice: [VALUE, …]}} under space"
    ends = [given["min"], given["max"]]
    logarithmic = "log" in str(given.get("distribution", ""))
    whole = all(isinstance(end, int) for end in ends)
    kind = "loguniform" if logarithmic else "int" if whole else "uniform"
    return f"write {path}: {{{kind}: {show(ends)}}} under space"


def _path_of(name: str) -> str:
    """Return the setting of a name, or one that stands for it."""
    paths = [path for path in field_paths() if path == name or path.endswith(f".{name}")]
    trained = [path for path in paths if path.startswith("training.")]
    return (trained or paths or ["SETTING"])[0]
