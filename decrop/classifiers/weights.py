"""Weights of a registered architecture, from a safetensors file."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from decrop.errors import InputError

# A counter that no forward pass in eval mode reads; many published files leave it out.
_OPTIONAL = "num_batches_tracked"


def load_weights(network: nn.Module, path: Path, *, architecture: str) -> None:
    """Load a safetensors file into a network whose keys and shapes it must fit.

    Raises:
        InputError: the file is missing, is not safetensors, or does not fit; names key or shape.
    """
    if not path.is_file():
        raise InputError(f"classifier.weights: {path} does not exist.")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise InputError(
            f"classifier.weights: {path} is not a safetensors file ({error}); "
            "convert it with safetensors.torch.save_file."
        ) from None
    expected = network.state_dict()
    missing = sorted(k for k in expected.keys() - weights.keys() if not k.endswith(_OPTIONAL))
    unexpected = sorted(weights.keys() - expected.keys())
    if missing or unexpected:
        problems = [f"misses {key}" for key in missing[:1]]
        problems += [f"has the unknown key {key}" for key in unexpected[:1]]
        raise InputError(
            f"classifier.weights: {path} does not fit {architecture}: it {' and '.join(problems)} "
            f"({len(missing)} missing, {len(unexpected)} unknown in all)."
        )
    for key, tensor in weights.items():
        if tensor.shape != expected[key].shape:
            raise InputError(
                f"classifier.weights: {path} does not fit {architecture}: {key} has the shape "
                f"{tuple(tensor.shape)}, expected {tuple(expected[key].shape)}."
            )
    network.load_state_dict(weights, strict=False)
