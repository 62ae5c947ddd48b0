"""Networks that functions of other packages return."""

import importlib
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue
from torch import nn

from decrop.errors import InputError, one_line


def build_by_factory(source: str, arguments: Mapping[str, JsonValue], *, group: str) -> nn.Module:
    """Import and call `package.module:function`.

    Args:
        group: of the settings that name it, for messages: `classifier` or `denoiser`.
    """
    made = called(_imported(source, group), arguments, source, group=group)
    if not isinstance(made, nn.Module):
        raise InputError(
            f"{group}.source: {source} returns a {type(made).__name__}, not a torch.nn.Module."
        )
    return made


def import_extra(package: str, named: str) -> Any:
    """Import a package that comes with the extra of its name; `named` is what needs it."""
    # It imports torchvision, which must come from here.
    from decrop._torchvision import torchvision  # noqa: F401

    try:
        return importlib.import_module(package)
    except ImportError:
        raise InputError(
            f"{named} needs {package}; install it with pip install 'decrop[{package}]'."
        ) from None


def called(function: Any, arguments: Mapping[str, JsonValue], source: str, *, group: str) -> Any:
    """Call what makes a network; whatever it raises is an error of the source."""
    try:
        return function(**arguments)
    except Exception as error:  # code of others may raise anything
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise InputError(
            f"{group}.source: {source}({given}) raised {type(error).__name__}: "
            f"{one_line(str(error), 300)}; its arguments are {group}.arguments."
        ) from error


def _imported(source: str, group: str) -> Any:
    module_name, _, path = source.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # a module may raise anything while it is imported
        raise InputError(
            f"{group}.source: {module_name} cannot be imported ({type(error).__name__}: "
            f"{one_line(str(error), 300)}); install it, or put the folder that holds it on "
            "PYTHONPATH."
        ) from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise InputError(f"{group}.source: {module_name} has no {path}.")
        found = getattr(found, name)
    if not callable(found):
        raise InputError(
            f"{group}.source: {source} is a {type(found).__name__}, not a function that returns "
            "a torch.nn.Module."
        )
    return found
