"""Models of timm and torchvision by name, with weights of the user's own."""

import difflib
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue
from torch import nn

from decrop.classifiers.sources.factory import called
from decrop.classifiers.sources.network import Network
from decrop.classifiers.weights import load_weights
from decrop.config import ClassifierSettings
from decrop.data.datasets import Dataset
from decrop.errors import InputError

# The models' arguments that would download weights, which are pickles.
_DOWNLOADING = ("weights", "weights_backbone", "pretrained", "checkpoint_path")


def zoo_network(settings: ClassifierSettings, dataset: Dataset) -> Network:
    """Build a model of timm or torchvision for the dataset's classes and load its weights.

    Raises:
        InputError: there is no such model, it cannot be built, or weights are missing or do not
            fit.
    """
    if settings.weights is None:
        raise InputError(
            f"classifier.weights: {settings.source} needs a safetensors file of its weights; give "
            "one with --set classifier.weights=FILE."
        )
    network = build_by_name(
        settings.source,
        settings.arguments,
        image_channels=dataset.channels,
        class_count=dataset.class_count,
    )
    load_weights(network, Path(settings.weights), architecture=settings.source)
    return Network(network, settings.source)


def build_by_name(
    source: str, arguments: Mapping[str, JsonValue], *, image_channels: int, class_count: int
) -> nn.Module:
    """Build an untrained model by `timm/NAME` or `torchvision/NAME`.

    Raises:
        InputError: there is no such model or it cannot be built.
    """
    package, _, name = source.partition("/")
    for argument in arguments:
        if argument in _DOWNLOADING:
            raise InputError(
                f"classifier.arguments: {argument} would download weights; give those of the "
                "classifier as classifier.weights."
            )
    if package == "timm":
        return _timm_model(source, name, arguments, image_channels, class_count)
    return _torchvision_model(source, name, arguments, class_count)


def _timm_model(
    source: str,
    name: str,
    arguments: Mapping[str, JsonValue],
    image_channels: int,
    class_count: int,
) -> nn.Module:
    # Optional, and slow to import; it imports torchvision, which must come from here.
    from decrop._torchvision import torchvision  # noqa: F401

    try:
        import timm
    except ImportError:
        raise InputError(
            f"classifier.source: {source} needs timm; install it with pip install 'decrop[timm]'."
        ) from None
    if not timm.is_model(name):
        raise _unknown(source, name, timm.list_models())
    fixed = {"in_chans": image_channels, "num_classes": class_count}
    network: nn.Module = called(
        lambda **given: timm.create_model(name, pretrained=False, **given),
        {**fixed, **arguments},
        source,
    )
    return network


def _torchvision_model(
    source: str, name: str, arguments: Mapping[str, JsonValue], class_count: int
) -> nn.Module:
    # Slow to import.
    from decrop._torchvision import torchvision

    models = torchvision.models
    if name not in models.list_models(module=models):
        raise _unknown(source, name, models.list_models(module=models))
    network: nn.Module = called(
        lambda **given: models.get_model(name, weights=None, **given),
        {"num_classes": class_count, **arguments},
        source,
    )
    return network


def _unknown(source: str, name: str, known: list[str]) -> InputError:
    near = difflib.get_close_matches(name, known, n=3) or known[:8]
    return InputError(
        f"classifier.source: {source} is not a model there; nearest are {', '.join(near)}."
    )
