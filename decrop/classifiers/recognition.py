"""The network that weights are of, by their names and shapes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from decrop.classifiers.weights import fits, header, listed, problems, without_prefix
from decrop.config.classifier_source import CLASSIFIERS
from decrop.errors import InputError
from decrop.networks.registry import build_classifier_network
from decrop.wording import counted

_TORCHVISION = ("resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2")


def matching_architecture(
    path: Path, *, image_channels: int, class_count: int, among: Sequence[str] = tuple(CLASSIFIERS)
) -> str:
    """Return the first of some registered architectures that a safetensors file fits."""
    blamed = f"classifier.weights: {path}"
    weights = header(path, blamed)
    known = {
        architecture: expected_weights(
            architecture, image_channels=image_channels, class_count=class_count
        )
        for architecture in among
    }
    for architecture, expected in known.items():
        if fits(expected, weights):
            return architecture
    nearest = max(known, key=lambda name: _alike(known[name], weights))
    fails = (
        f"does not fit {nearest}"
        if len(known) == 1
        else f"fits none of {', '.join(known)} with {class_count} classes and "
        f"{counted(image_channels, 'channel')}; nearest is {nearest}"
    )
    raise InputError(
        f"{blamed} {fails}: {listed(problems(known[nearest], weights))}. {_advice(weights, path)}"
    )


def _advice(weights: Mapping[str, Tensor], path: Path) -> str:
    """Say what a file of weights holds, as far as that is found out, and what to do."""
    stripped, prefix = without_prefix(weights)
    begin = f"All its names begin with {prefix}. " if prefix else ""
    source, found = recognised(stripped)
    if source is None:
        return f"{begin}`decrop classifier convert` finds out what a checkpoint of torch.save is."
    channels, classes = _channels_and_classes(found)
    assert channels is not None  # all that is recognised has convolutions
    holds = f"{begin}It holds {source} of {classes} classes and {counted(channels, 'channel')}: "
    if prefix or found.keys() != weights.keys():
        return f"{holds}`decrop classifier convert {path}` writes it with the right names."
    return f"{holds}with data of as many, set classifier.source={source}."


def expected_weights(source: str, *, image_channels: int, class_count: int) -> Mapping[str, Tensor]:
    """Return the names and shapes of a network's weights, without memory for them.

    Args:
        source: a registered architecture, or torchvision/NAME.
        image_channels: C; of a model of torchvision they are 3.
    """
    with torch.device("meta"):
        if source.startswith("torchvision/"):
            # Slow to import.
            from decrop._torchvision import torchvision

            name = source.removeprefix("torchvision/")
            network = torchvision.models.get_model(name, weights=None, num_classes=class_count)
        else:
            network = build_classifier_network(
                source, image_channels=image_channels, class_count=class_count
            )
    found: Mapping[str, Tensor] = network.state_dict()
    return found


def _alike(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> float:
    """Return the share of shapes that both have, as often, whatever the tensors are called."""
    ours, theirs = (
        Counter(tuple(tensor.shape) for tensor in tensors.values())
        for tensors in (expected, weights)
    )
    return (ours & theirs).total() / max(1, (ours | theirs).total())


def recognised(weights: dict[str, Tensor]) -> tuple[str | None, dict[str, Tensor]]:
    """Return the source that weights fit, renamed for it if need be, or None and the weights.

    Those of other names fit where order, shapes and kinds are the same, and of one network alone.
    """
    channels, classes = _channels_and_classes(weights)
    if channels is None or classes is None:
        return None, weights
    known = {
        source: expected_weights(source, image_channels=channels, class_count=classes)
        for source in (*CLASSIFIERS, *(f"torchvision/{name}" for name in _TORCHVISION))
    }
    for source, expected in known.items():
        if fits(expected, weights):
            return source, weights
    in_order = {
        source: renamed
        for source, expected in known.items()
        if (renamed := _in_order(expected, weights)) is not None
    }
    if len(in_order) == 1:
        ((source, renamed),) = in_order.items()
        return source, renamed
    return None, weights


def _in_order(
    expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> dict[str, Tensor] | None:
    """Return weights by the expected names, where order, shapes and kinds are the same."""
    names = [name for name in expected if not name.endswith("num_batches_tracked")]
    given = [name for name in weights if not name.endswith("num_batches_tracked")]
    if len(names) != len(given):
        return None
    renamed = {}
    for name, old in zip(names, given, strict=True):
        same_kind = name.rpartition(".")[2] == old.rpartition(".")[2]
        if not same_kind or expected[name].shape != weights[old].shape:
            return None
        renamed[name] = weights[old]
    return renamed


def _channels_and_classes(weights: Mapping[str, Tensor]) -> tuple[int | None, int | None]:
    """Return the channels of the first convolution, and the outputs of the last linear layer."""
    shapes = [tuple(tensor.shape) for tensor in weights.values()]
    channels = next((shape[1] for shape in shapes if len(shape) == 4), None)
    classes = next((shape[0] for shape in reversed(shapes) if len(shape) == 2), None)
    return channels, classes
