"""A network that a function of the user's own makes."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from torch import nn

from decrop.classifiers.sources.network import Network
from decrop.classifiers.weights import load_weights
from decrop.config import ClassifierSettings
from decrop.data.datasets import Dataset
from decrop.errors import InputError


def factory_network(settings: ClassifierSettings, dataset: Dataset) -> Network:
    """Import and call `package.module:function`, and load weights into what it returns, if given.

    Raises:
        InputError: it cannot be imported, fails, or returns no module; the weights do not fit.
    """
    network = build_by_factory(settings.source, settings.arguments)
    if settings.weights is not None:
        load_weights(network, Path(settings.weights), architecture=settings.source)
    return Network(network, settings.source)


def build_by_factory(source: str, arguments: Mapping[str, JsonValue]) -> nn.Module:
    """Import and call `package.module:function`.

    Raises:
        InputError: it cannot be imported, is not callable, fails, or returns no module.
    """
    made = called(_imported(source), arguments, source)
    if not isinstance(made, nn.Module):
        raise InputError(
            f"classifier.source: {source} returns a {type(made).__name__}, not a torch.nn.Module."
        )
    return made


def called(function: Any, arguments: Mapping[str, JsonValue], source: str) -> Any:
    """Call what makes a network; whatever it raises is an error of the source."""
    try:
        return function(**arguments)
    except Exception as error:  # code of others may raise anything
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise InputError(
            f"classifier.source: {source}({given}) raised {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}; its arguments are classifier.arguments."
        ) from error


def _imported(source: str) -> Any:
    module_name, _, path = source.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # a module may raise anything while it is imported
        raise InputError(
            f"classifier.source: {module_name} cannot be imported ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}); install it, or put its folder on PYTHONPATH."
        ) from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise InputError(f"classifier.source: {module_name} has no {path}.")
        found = getattr(found, name)
    if not callable(found):
        raise InputError(
            f"classifier.source: {source} is a {type(found).__name__}, not a function that returns "
            "a torch.nn.Module."
        )
    return found
