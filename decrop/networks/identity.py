"""Identity of a network by its content: weights, structure, settings and source."""

import dataclasses
import enum
import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from decrop.files import sha256_of_json, sha256_of_tensors

# What every module has; parameters, buffers, children and hooks are described apart.
_OF_ANY_MODULE = frozenset(vars(nn.Module()))
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
# Where a module keeps its settings as they were when it was built.
_AS_BUILT = "_settings_as_built"
# Settings lie nearer; what is deeper in objects of others is named by its class alone.
_DEEPEST = 8


def network_identity(network: nn.Module) -> str:
    """Hash everything that decides what a network answers; return 64 hex digits.

    That is, for each of its modules: class, the source file of the class unless it is PyTorch's,
    parameters, buffers also where they are not saved, plain tensors, settings, hooks and children.
    A module with a method `identity` is what that returns: a program knows its bytes, an endpoint
    how it is asked. The mode of training is left out. Two networks that answer differently have
    different identities; the same network may get another one where a source file has changed.
    """
    return sha256_of_json(_Description().of_module(network))


def remember_settings(network: nn.Module) -> None:
    """Let a network's identity be that of now, whatever its modules keep of what they compute."""
    for module in network.modules():
        vars(module)[_AS_BUILT] = _settings(module)


def _settings(module: nn.Module) -> dict[str, Any]:
    skipped = {*_OF_ANY_MODULE, _AS_BUILT}
    return {name: value for name, value in vars(module).items() if name not in skipped}


class _Description:
    """Describes modules as JSON; an object met again is named by its number."""

    def __init__(self) -> None:
        self._met: dict[int, int] = {}
        # Numbers are those of addresses, which a temporary object must not give to another one.
        self._kept: list[Any] = []

    def of_module(self, module: nn.Module) -> Any:
        known: Callable[[], Any] | None = getattr(module, "identity", None)
        if known is not None:
            return [_name(type(module)), known()]
        if (met := self._meet(module)) is not None:
            return met
        state = {**module._parameters, **module._buffers}
        tensors = {name: tensor for name, tensor in state.items() if tensor is not None}
        settings = vars(module).get(_AS_BUILT, _settings(module))
        described = {
            "class": self._code(type(module)),
            "tensors": sha256_of_tensors(tensors),
            "settings": {name: self._of(settings[name], 0) for name in sorted(settings)},
            "hooks": [self._of(list(getattr(module, name).values()), 0) for name in _HOOKS],
            "children": [
                [name, child and self.of_module(child)] for name, child in module._modules.items()
            ],
        }
        # Of torch.fx and TorchScript, which compute by code of their own.
        code = getattr(module, "code", None)
        return described | {"code": code} if isinstance(code, str) else described

    def _of(self, value: Any, depth: int) -> Any:
        match value:
            case None | bool() | int() | str():
                return value
            case float():
                return ["float", value.hex()]
            case bytes():
                return ["bytes", hashlib.sha256(value).hexdigest()]
            case Tensor():
                return ["tensor", sha256_of_tensors({"": value})]
            case np.ndarray():
                array = np.ascontiguousarray(value)
                return ["array", str(array.dtype), list(array.shape), _digest(array.tobytes())]
            case torch.dtype() | torch.device() | torch.memory_format() | complex() | Path():
                return [type(value).__name__, str(value)]
            case enum.Enum():
                return [_name(type(value)), value.name]
            case nn.Module():
                return self.of_module(value)
            case type():
                return self._code(value)
        if (met := self._meet(value)) is not None:
            return met
        inner = functools.partial(self._of, depth=depth + 1)
        if depth > _DEEPEST:
            return _name(type(value))
        match value:
            case Mapping():
                return ["mapping", *([inner(key), inner(item)] for key, item in value.items())]
            case list() | tuple():
                return [_name(type(value)), *map(inner, value)]
            case set() | frozenset():
                return ["set", *sorted(map(inner, value), key=str)]
            case functools.partial():
                return ["partial", inner(value.func), inner(value.args), inner(value.keywords)]
            case BaseModel():
                return [_name(type(value)), inner(value.model_dump())]
        if dataclasses.is_dataclass(value):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            return [_name(type(value)), inner(fields)]
        if isinstance(value, types.MethodType):
            return ["method", value.__name__, inner(value.__self__)]
        if isinstance(value, types.ModuleType):
            return ["module", value.__name__]
        if isinstance(value, types.FunctionType):
            held = inspect.getclosurevars(value).nonlocals
            return ["function", self._code(value), inner(held), inner(value.__defaults__)]
        if hasattr(value, "__qualname__"):
            return ["function", *self._code(value)]
        return [_name(type(value)), inner(getattr(value, "__dict__", {}))]

    def _code(self, of: Any) -> list[str | None]:
        """Return the name of a class or function and the hash of the file that it stands in."""
        module = of.__module__ or ""
        file = getattr(sys.modules.get(module), "__file__", None)
        if file is None or module.partition(".")[0] == "torch":
            return [_name(of), None]
        return [_name(of), _file_hash(file)]

    def _meet(self, value: Any) -> list[Any] | None:
        if id(value) in self._met:
            return ["again", self._met[id(value)]]
        self._met[id(value)] = len(self._met)
        self._kept.append(value)
        return None


def _name(of: Any) -> str:
    return f"{of.__module__}.{of.__qualname__}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _file_hash(file: str) -> str | None:
    path = Path(file)
    if not path.is_file():
        return None
    stat = path.stat()
    return _file_hash_at(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=1024)
def _file_hash_at(path: Path, _changed: int, _size: int) -> str:
    return _digest(path.read_bytes())
