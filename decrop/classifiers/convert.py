"""Checkpoints as the field writes them, turned into safetensors files of a network's weights."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from decrop.classifiers.recognition import recognised
from decrop.classifiers.weights import is_safetensors, without_prefix
from decrop.errors import InputError, one_line
from decrop.files import MOST_WEIGHTS_BYTES, require_regular

# Where checkpoints keep the weights, the best first.
_HOLDERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
# Of torch.nn.DataParallel and torch.compile.
_WRAPPERS = ("module", "_orig_mod")
_CONSTANTS = {"mean": "mean", "means": "mean", "std": "std", "stds": "std", "sds": "std"}
_MOST_CHANNELS = 4


@dataclass(frozen=True)
class Converted:
    """Weights of a network, and what was found out about them.

    Attributes:
        weights: by the names that the network gives them.
        source: classifier.source that they fit; None where none was recognised.
        mean: channel means of a normalisation layer, where the checkpoint had one.
        std: its standard deviations.
        done: what was changed, in sentences.
    """

    weights: dict[str, Tensor]
    source: str | None
    mean: list[float] | None
    std: list[float] | None
    done: list[str]

    @property
    def settings(self) -> list[str]:
        """Assignments of settings that go with the weights."""
        found = [] if self.source is None else [f"classifier.source={self.source}"]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None:
                found.append(f"classifier.{name}=[{','.join(f'{value:.6g}' for value in values)}]")
        return found


def convert(path: Path) -> Converted:
    """Read the weights in a checkpoint: of torch.save, without running its code, or safetensors."""
    weights, done = _tensors(_content(path), path)
    others, constants = _without_constants(weights)
    stripped, prefix = without_prefix(others)
    source, found = recognised(stripped)
    if source is None:
        # Constants, and other prefixes, may be how the user's own network is built.
        constants = {}
        stripped, prefix = without_prefix(weights, _WRAPPERS)
        found = stripped
    if prefix:
        done.append(f"took the prefix {prefix} from all names")
    if source is not None and found.keys() != stripped.keys():
        renamed = len(found.keys() - stripped.keys())
        done.append(f"renamed {renamed} of {len(found)} tensors by their order and shapes")
    if constants:
        done.append("kept the constants of its normalisation layer as settings")
    return Converted(
        weights=found,
        source=source,
        mean=constants.get("mean"),
        std=constants.get("std"),
        done=done,
    )


def _content(path: Path) -> Any:
    require_regular(path, most_bytes=MOST_WEIGHTS_BYTES)
    if is_safetensors(path):
        return load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = one_line(str(error), 300)
        raise InputError(
            f"{path} holds more than tensors, numbers and names, and is not opened further, for "
            f"that can run any code ({reason}). Where you trust it, load it yourself and save its "
            "state_dict()."
        ) from None
    except Exception as error:  # of damaged files its reader raises anything
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{path} is no checkpoint of torch.save ({reason}).") from None


def _tensors(content: Any, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors by name, and what they were taken from."""
    if not isinstance(content, Mapping):
        raise InputError(
            f"{path} holds a {type(content).__name__}; expected the state_dict of a network."
        )
    if _is_state(content):
        return dict(content), []
    holders = [name for name, value in content.items() if _is_state(value)]
    chosen = next((name for name in _HOLDERS if name in holders), None)
    if chosen is None and len(holders) == 1:
        (chosen,) = holders
    if chosen is None:
        which = f"several networks ({', '.join(map(str, holders))})" if holders else "no state_dict"
        raise InputError(f"{path} holds {which}; save the state_dict of the one that you mean.")
    others = [str(name) for name in content if name != chosen]
    left = f", and left {', '.join(others)}" if others else ""
    return dict(content[chosen]), [f"took the weights from {chosen}{left}"]


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def _without_constants(
    weights: dict[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    """Take the channel means and deviations of a normalisation layer out of the weights."""
    constants: dict[str, list[float]] = {}
    rest = {}
    for name, tensor in weights.items():
        kind = _CONSTANTS.get(name.rpartition(".")[2])
        if kind is not None and tensor.numel() <= _MOST_CHANNELS and kind not in constants:
            constants[kind] = tensor.flatten().tolist()
        else:
            rest[name] = tensor
    return rest, constants
