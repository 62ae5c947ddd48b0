"""Weights of a network, from a safetensors file."""

import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from decrop.errors import InputError
from decrop.files import MOST_WEIGHTS_BYTES, require_regular

Network = TypeVar("Network", bound=nn.Module)

# A counter that no forward pass in eval mode reads; many published files leave it out.
_OPTIONAL = "num_batches_tracked"
# The first opcode of every pickle since protocol 2.
_PICKLE_PROTOCOL = b"\x80"
_MOST_TENSORS = 100_000
# What safetensors calls the types that networks here may have.
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def built_with_weights(
    build: Callable[[], Network], path: Path, *, architecture: str, setting: str | None
) -> Network:
    """Build a network and load its weights, once they are known to fit: it takes no more memory.

    Args and errors are those of `load_weights`, but for `build`, which is called twice.
    """
    blamed = _blamed(path, setting)
    with torch.device("meta"):
        expected = build().state_dict()
    _fit(expected, header(path, blamed), blamed, architecture)
    network = build()
    load_weights(network, path, architecture=architecture, setting=setting)
    return network


def load_weights(
    network: nn.Module, path: Path, *, architecture: str, setting: str | None = "classifier.weights"
) -> None:
    """Load a safetensors file into a network whose keys and shapes it must fit."""
    blamed = _blamed(path, setting)
    _fit(network.state_dict(), header(path, blamed), blamed, architecture)
    take_tensors(network, load_file(path), blamed, architecture)


def take_weights(network: nn.Module, source: nn.Module, *, architecture: str) -> None:
    """Load the weights of another network of the same architecture."""
    take_tensors(network, source.state_dict(), f"The given {type(source).__name__}", architecture)


def without_prefix(
    weights: Mapping[str, Tensor], of: Collection[str] | None = None
) -> tuple[dict[str, Tensor], str]:
    """Take away what all names begin with, such as `module.`, and return it too.

    Args:
        of: parts that may be taken away; any if None.
    """
    prefix = ""
    while True:
        first, dot, _ = next(iter(weights), "").removeprefix(prefix).partition(".")
        longer = f"{prefix}{first}."
        shared = bool(dot) and all(name.startswith(longer) for name in weights)
        if not shared or (of is not None and first not in of):
            return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}, prefix
        prefix = longer


def fits(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> bool:
    """Tell whether weights have a network's names, shapes and types."""
    return not problems(expected, weights)


def _blamed(path: Path, setting: str | None) -> str:
    return str(path) if setting is None else f"{setting}: {path}"


def header(path: Path, blamed: str) -> dict[str, Tensor]:
    """Return tensors without memory, of the names, shapes and types that a file states."""
    require_regular(path, most_bytes=MOST_WEIGHTS_BYTES, blamed=blamed)
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if len(names) > _MOST_TENSORS:
                raise InputError(
                    f"{blamed} holds {len(names):,} tensors; {_MOST_TENSORS:,} is the most."
                )
            return {name: _stated(file.get_slice(name)) for name in names}
    except SafetensorError as error:
        if _is_pickle(path):
            raise InputError(
                f"{blamed} is a pickle, as torch.save writes it; reading one can run any code, so "
                f"it is not opened. `decrop classifier convert {path}` takes its tensors alone."
            ) from None
        raise InputError(
            f"{blamed} is not a safetensors file ({error}); "
            "convert it with safetensors.torch.save_file."
        ) from None


def is_safetensors(path: Path) -> bool:
    """Tell whether a file is of safetensors."""
    try:
        with safe_open(path, framework="pt"):
            return True
    except SafetensorError:
        return False


def _is_pickle(path: Path) -> bool:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    with path.open("rb") as file:
        return file.read(1) == _PICKLE_PROTOCOL


def _stated(tensor: Any) -> Tensor:
    # Other types are in no network's weights, nor is this one.
    dtype = _DTYPES.get(tensor.get_dtype(), torch.complex64)
    return torch.empty(tensor.get_shape(), dtype=dtype, device="meta")


def take_tensors(
    network: nn.Module, weights: Mapping[str, Tensor], blamed: str, architecture: str
) -> None:
    """Load tensors into a network that they must fit; `blamed` is what an error begins with."""
    _fit(network.state_dict(), weights, blamed, architecture)
    endless = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if endless:
        found = [f"{name} holds NaN or infinity" for name in endless]
        raise InputError(f"{blamed} cannot be used for {architecture}: {listed(found)}.")
    network.load_state_dict(weights, strict=False)


def _fit(
    expected: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    blamed: str,
    architecture: str,
) -> None:
    found = problems(expected, weights)
    if not found:
        return
    stripped, prefix = without_prefix(weights)
    if prefix and fits(expected, stripped):
        raise InputError(
            f"{blamed} does not fit {architecture}: all its names begin with {prefix}, which "
            "`decrop classifier convert` takes away."
        )
    raise InputError(f"{blamed} does not fit {architecture}: {listed(found)}.")


def problems(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    missing = sorted(k for k in expected.keys() - weights.keys() if not k.endswith(_OPTIONAL))
    problems = [f"it misses {key}" for key in missing]
    problems += [
        f"it has the unknown key {key}" for key in sorted(weights.keys() - expected.keys())
    ]
    for key, tensor in weights.items():
        if key in expected:
            wanted = expected[key]
            if tensor.shape != wanted.shape:
                problems.append(
                    f"{key} has the shape {tuple(tensor.shape)}, expected {tuple(wanted.shape)}"
                )
            elif not _holds(wanted.dtype, tensor.dtype):
                problems.append(f"{key} is of type {_named(tensor)}, expected {_named(wanted)}")
    return problems


def _holds(wanted: torch.dtype, given: torch.dtype) -> bool:
    """Tell whether one type holds every number of another, of the same kind."""
    same_kind = wanted.is_floating_point == given.is_floating_point
    return same_kind and torch.promote_types(wanted, given) == wanted


def _named(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def listed(problems: list[str]) -> str:
    more = len(problems) - 1
    return problems[0] + (f" (and {more} more)" if more else "")
