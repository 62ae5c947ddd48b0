"""Sources of a classifier's network, one function for each form of `classifier.source`."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from pydantic import JsonValue
from torch import nn

from decrop.classifiers.program import ExportedNetwork
from decrop.classifiers.program_archive import program_bytes
from decrop.classifiers.published import published_weights
from decrop.classifiers.recognition import matching_architecture
from decrop.classifiers.weights import load_weights, take_tensors
from decrop.config import ClassifierSettings
from decrop.config.classifier_source import AUTO, CLASSIFIERS, SOURCES, source_kind, uri_scheme
from decrop.data.datasets import Dataset
from decrop.errors import InputError
from decrop.networks.imported import build_by_factory, called, import_extra
from decrop.networks.registry import build_classifier_network


@dataclass(frozen=True)
class Network:
    """A network of a source.

    Attributes:
        module: standardised images [B, C, H, W] to logits [B, K].
        architecture: what it is, wherever it lay: a registered name, the dotted path or model name
            that built it, or `PROGRAM`.
        mean: channel means that it is known to be trained with, as of published weights.
        std: their standard deviations.
    """

    module: nn.Module
    architecture: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


# The architecture of a torch.export program, and its file's name in a bundle.
PROGRAM = "program.pt2"
Source = Callable[[ClassifierSettings, Dataset], Network]


def registered_network(settings: ClassifierSettings, dataset: Dataset) -> Network:
    """Build a registered network, with its weights unless it is to be trained."""
    if settings.weights is None and settings.training is None:
        raise InputError(
            "classifier.weights: no file is given for the pretrained classifier; give one with "
            "--set classifier.weights=FILE, or train one with --set classifier.training.epochs=30 "
            "and a classifier.source."
        )
    architecture = _architecture(settings, dataset)
    _check_image_size(architecture, settings, dataset)
    network = build_classifier_network(
        architecture, image_channels=dataset.channels, class_count=dataset.class_count
    )
    if settings.weights is not None:
        load_weights(network, Path(settings.weights), architecture=architecture)
    elif settings.training is not None and settings.training.initial_weights is not None:
        load_weights(
            network,
            Path(settings.training.initial_weights),
            architecture=architecture,
            setting="classifier.training.initial_weights",
        )
    return Network(network, architecture)


def _architecture(settings: ClassifierSettings, dataset: Dataset) -> str:
    if settings.weights is None:
        return settings.source
    return matching_architecture(
        Path(settings.weights),
        image_channels=dataset.channels,
        class_count=dataset.class_count,
        among=tuple(CLASSIFIERS) if settings.source == AUTO else (settings.source,),
    )


def _check_image_size(architecture: str, settings: ClassifierSettings, dataset: Dataset) -> None:
    smallest = CLASSIFIERS[architecture].smallest
    height, width = settings.input_size or dataset.train.shape[1:]
    if min(height, width) < smallest:
        fitting = [c.name for c in CLASSIFIERS.values() if c.smallest <= min(height, width)]
        raise InputError(
            f"classifier.source: {architecture} needs images of {smallest}x{smallest} pixels "
            f"or more; {dataset.name} has {height}x{width}. Use one of {', '.join(fitting)}."
        )


def factory_network(settings: ClassifierSettings, dataset: Dataset) -> Network:
    """Import and call `package.module:function`; load weights into what it returns, if given."""
    network = build_by_factory(settings.source, settings.arguments, group="classifier")
    if settings.weights is not None:
        load_weights(network, Path(settings.weights), architecture=settings.source)
    return Network(network, settings.source)


# The models' arguments that would download weights, which are pickles.
_DOWNLOADING = ("weights", "weights_backbone", "pretrained", "checkpoint_path")


def zoo_network(settings: ClassifierSettings, dataset: Dataset) -> Network:
    """Build a model of timm or torchvision for the dataset's classes and load its weights."""
    if settings.weights is None:
        raise InputError(
            f"classifier.weights: {settings.source} needs weights; give a safetensors file, or the "
            "name of published ones, with --set classifier.weights=FILE."
        )
    network = build_by_name(
        settings.source,
        settings.arguments,
        image_channels=dataset.channels,
        class_count=dataset.class_count,
    )
    if Path(settings.weights).exists():
        load_weights(network, Path(settings.weights), architecture=settings.source)
        return Network(network, settings.source)
    published = published_weights(settings.source, settings.weights)
    blamed = f"classifier.weights: {settings.weights}"
    if published.class_count != dataset.class_count:
        raise InputError(
            f"{blamed} of {settings.source} are for {published.class_count} classes; "
            f"{dataset.name} has {dataset.class_count}."
        )
    take_tensors(network, published.download(settings.weights), blamed, settings.source)
    return Network(network, settings.source, published.mean, published.std)


def build_by_name(
    source: str, arguments: Mapping[str, JsonValue], *, image_channels: int, class_count: int
) -> nn.Module:
    """Build an untrained model by `timm/NAME` or `torchvision/NAME`."""
    package, _, name = source.partition("/")
    for argument in arguments:
        if argument in _DOWNLOADING:
            raise InputError(
                f"classifier.arguments: {argument} would download weights; give a file of them, or "
                "their name, as classifier.weights."
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
    timm = import_extra("timm", f"classifier.source: {source}")
    if not timm.is_model(name):
        raise _unknown(source, name, timm.list_models())
    fixed = {"in_chans": image_channels, "num_classes": class_count}
    network: nn.Module = called(
        lambda **given: timm.create_model(name, pretrained=False, **given),
        {**fixed, **arguments},
        source,
        group="classifier",
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
        group="classifier",
    )
    return network


def _unknown(source: str, name: str, known: list[str]) -> InputError:
    near = difflib.get_close_matches(name, known, n=3) or known[:8]
    return InputError(
        f"classifier.source: {source} is not a model there; nearest are {', '.join(near)}."
    )


def program_network(settings: ClassifierSettings, dataset: Dataset) -> Network:
    """Load a program from the file that `classifier.source` names."""
    return load_program(
        Path(settings.source), settings, dataset, blamed=f"classifier.source: {settings.source}"
    )


def load_program(
    path: Path, settings: ClassifierSettings, dataset: Dataset, *, blamed: str
) -> Network:
    """Load a program from a file; `blamed` is what an error begins with."""
    program = program_bytes(path, blamed)
    network = ExportedNetwork(program, settings.feature_layer, blamed=blamed)
    channels, *size = dataset.train.shape
    given = (channels, *(settings.input_size or size))
    expected = network.image_shape
    if any(fixed not in (None, found) for fixed, found in zip(expected, given, strict=True)):
        height, width = expected[1] or given[1], expected[2] or given[2]
        remedy = (
            f"set classifier.input_size=[{height},{width}]"
            if expected[0] in (None, channels)
            else "use data of that many channels"
        )
        raise InputError(
            f"{blamed} takes images {_shape(expected)} (channels x height x width), but is given "
            f"{_shape(given)}; {remedy}."
        )
    return Network(network, PROGRAM)


def _shape(shape: tuple[int | None, ...]) -> str:
    return "x".join("any" if size is None else str(size) for size in shape)


# Scheme of a URI to a `Source`.
_GROUP = "decrop.classifier_sources"


def network_at_uri(settings: ClassifierSettings, dataset: Dataset) -> Network:
    """Load a network by the entry point that reads the scheme of the URI."""
    scheme = uri_scheme(settings.source)
    found = entry_points(group=_GROUP, name=scheme)
    if not found:
        known = sorted({f"{point.name}:/" for point in entry_points(group=_GROUP)})
        raise InputError(
            f"classifier.source: {settings.source}: nothing installed reads {scheme}: URIs"
            + (f"; there are {', '.join(known)}." if known else "; install 'decrop[sweep]'.")
        )
    source: Source = next(iter(found)).load()
    return source(settings, dataset)


def no_network(settings: ClassifierSettings, dataset: Dataset) -> Network:
    """Refuse to load what only answers."""
    raise InputError(
        f"classifier.source: {settings.source} answers with predictions only, so nothing can be "
        "trained through it; decrop certify and decrop inspect ask it, and decrop classifier steal "
        "trains a surrogate from its answers."
    )


def load_network(settings: ClassifierSettings, dataset: Dataset) -> Network:
    """Load the network of a classifier, untrained where it is to be trained.

    Runs code that the settings name, so they must be the user's own.
    """
    network: Network = SOURCES.build(source_kind(settings.source), settings, dataset)
    return network
