"""Weights of a network, from a safetensors file."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from decrop.config.classifier_source import ClassifierArchitecture
from decrop.errors import InputError
from decrop.networks.registry import CLASSIFIERS, build_classifier_network

# A counter that no forward pass in eval mode reads; many published files leave it out.
_OPTIONAL = "num_batches_tracked"
# The first opcode of every pickle since protocol 2.
_PICKLE_PROTOCOL = b"\x80"


def load_weights(
    network: nn.Module, path: Path, *, architecture: str, setting: str | None = "classifier.weights"
) -> None:
    """Load a safetensors file into a network whose keys and shapes it must fit.

    Args:
        network: to load into.
        path: of the file.
        architecture: of the network, for the message.
        setting: that named the file, for the message.

    Raises:
        InputError: the file is missing, is not safetensors, or does not fit; names key or shape.
    """
    blamed = str(path) if setting is None else f"{setting}: {path}"
    _load(network, _read(path, blamed), blamed, architecture)


def take_weights(network: nn.Module, source: nn.Module, *, architecture: str) -> None:
    """Load the weights of another network of the same architecture.

    Raises:
        InputError: they do not fit; names key or shape.
    """
    _load(network, source.state_dict(), f"The given {type(source).__name__}", architecture)


def matching_architecture(
    path: Path, *, image_channels: int, class_count: int
) -> ClassifierArchitecture:
    """Find the registered architecture that a safetensors file belongs to.

    Raises:
        InputError: the file is missing or is not safetensors, or no architecture fits.
    """
    weights = _read(path, f"classifier.weights: {path}")
    problems: dict[ClassifierArchitecture, list[str]] = {}
    for architecture in CLASSIFIERS:
        # Without memory for weights: only names and shapes are compared.
        with torch.device("meta"):
            network = build_classifier_network(
                architecture, image_channels=image_channels, class_count=class_count
            )
        problems[architecture] = _problems(network, weights)
        if not problems[architecture]:
            return architecture
    nearest = min(problems, key=lambda name: len(problems[name]))
    raise InputError(
        f"classifier.weights: {path} fits none of {', '.join(problems)} with {class_count} classes "
        f"and {image_channels} channels; nearest is {nearest}: {_listed(problems[nearest])}."
    )


def _read(path: Path, blamed: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{blamed} does not exist.")
    try:
        return load_file(path)
    except SafetensorError as error:
        if _is_pickle(path):
            raise InputError(
                f"{blamed} is a pickle, as torch.save writes it; reading one can run any code, so "
                "it is not opened. Convert it with safetensors.torch.save_file, where you trust it."
            ) from None
        raise InputError(
            f"{blamed} is not a safetensors file ({error}); "
            "convert it with safetensors.torch.save_file."
        ) from None


def _is_pickle(path: Path) -> bool:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    with path.open("rb") as file:
        return file.read(1) == _PICKLE_PROTOCOL


def _load(
    network: nn.Module, weights: Mapping[str, Tensor], blamed: str, architecture: str
) -> None:
    problems = _problems(network, weights)
    if problems:
        raise InputError(f"{blamed} does not fit {architecture}: {_listed(problems)}.")
    network.load_state_dict(weights, strict=False)


def _problems(network: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    expected = network.state_dict()
    missing = sorted(k for k in expected.keys() - weights.keys() if not k.endswith(_OPTIONAL))
    problems = [f"it misses {key}" for key in missing]
    problems += [
        f"it has the unknown key {key}" for key in sorted(weights.keys() - expected.keys())
    ]
    problems += [
        f"{key} has the shape {tuple(tensor.shape)}, expected {tuple(expected[key].shape)}"
        for key, tensor in weights.items()
        if key in expected and tensor.shape != expected[key].shape
    ]
    return problems


def _listed(problems: list[str]) -> str:
    more = len(problems) - 1
    return problems[0] + (f" (and {more} more)" if more else "")
