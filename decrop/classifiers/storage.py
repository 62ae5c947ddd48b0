"""A classifier in a folder of its own: a description and, unless left out, its weights."""

import warnings
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from torch import nn

from decrop.black_box import EndpointClassifier
from decrop.classifiers.classifier import Classifier
from decrop.classifiers.program import ExportedNetwork
from decrop.classifiers.program_archive import program_bytes
from decrop.classifiers.sources import PROGRAM, build_by_name
from decrop.classifiers.weights import built_with_weights, load_weights, take_weights
from decrop.config import (
    ClassNames,
    FreeMapping,
    Number,
    Positive,
    Settings,
    Side,
    Text,
    Word,
)
from decrop.config.classifier_source import (
    CLASSIFIERS,
    imports_code,
    source_kind,
)
from decrop.config.settings import MOST_CHANNELS
from decrop.documents import validated
from decrop.errors import InputError
from decrop.files import (
    MOST_TEXT_BYTES,
    read_json,
    write_bytes,
    write_json,
    write_tensors,
)
from decrop.networks.identity import network_identity
from decrop.networks.imported import build_by_factory
from decrop.networks.registry import build_classifier_network

_DESCRIPTION = "classifier.json"
_WEIGHTS = "weights.safetensors"


AnyClassifier = Classifier | EndpointClassifier


class _Description(Settings):
    """classifier.json; details that are the defaults are left out."""

    architecture: Text
    mean: tuple[Number, ...] = Field(min_length=1, max_length=MOST_CHANNELS)
    std: tuple[Positive, ...] = Field(min_length=1, max_length=MOST_CHANNELS)
    class_names: ClassNames
    arguments: FreeMapping = Field({})
    input_size: tuple[Side, Side] | None = None
    channel_order: Literal["rgb", "bgr"] = "rgb"
    feature_layer: Text | None = None
    identity: Word | None = None
    hash: Word

    @field_validator("architecture")
    @classmethod
    def _can_be_stored(cls, architecture: str) -> str:
        if imports_code(architecture) or architecture in CLASSIFIERS or architecture == PROGRAM:
            return architecture
        raise ValueError(
            f"must be a registered network, package.module:function, timm/NAME, torchvision/NAME "
            f"or {PROGRAM}"
        )

    @property
    def kind(self) -> str:
        return source_kind(self.architecture)


def store_classifier(
    classifier: AnyClassifier,
    class_names: tuple[str, ...],
    folder: Path,
    *,
    with_weights: bool = True,
) -> None:
    """Write a classifier to `folder`; the description, written last, carries its content hash.

    Of an endpoint there is only the description.
    """
    if isinstance(classifier, EndpointClassifier):
        write_json(folder / _DESCRIPTION, classifier.stored(class_names))
        return
    network = classifier.network
    if with_weights and isinstance(network, ExportedNetwork):
        write_bytes(folder / PROGRAM, network.program)
    elif with_weights:
        write_tensors(folder / _WEIGHTS, network.state_dict())
    description = {
        "architecture": classifier.architecture,
        "mean": classifier.mean.flatten().tolist(),
        "std": classifier.std.flatten().tolist(),
        "class_names": list(class_names),
        **classifier.description(),
        **(
            {"identity": network_identity(network)} if imports_code(classifier.architecture) else {}
        ),
        "hash": classifier.content_hash(),
    }
    write_json(folder / _DESCRIPTION, description)


def load_stored_classifier(
    folder: Path, *, given: Path | str | nn.Module | None = None, trust_code: bool = False
) -> tuple[AnyClassifier, tuple[str, ...]]:
    """Read a classifier and the names of its classes.

    Args:
        folder: that `store_classifier` wrote.
        given: where the folder has no weights: a safetensors or .pt2 file, the `Classifier`, or a
            network of its architecture. A registered network's weights are taken; another network
            is used itself. Of an endpoint: the URL that is asked, or an `EndpointClassifier`.
        trust_code: whether the function or the model of timm or torchvision that the folder names
            may be imported and called, and the endpoint that it names be asked. Only for folders of
            people you trust.

    An endpoint at another URL than the recorded one is taken for the same classifier, which nobody
    can tell but by its answers; nothing is asked here. Where it needs a bearer token, that is in
    the environment variable DECROP_ENDPOINT_TOKEN.
    """
    path = folder / _DESCRIPTION
    found = read_json(path, most_bytes=MOST_TEXT_BYTES)
    if not isinstance(found, dict):
        raise InputError(f"{path} must hold a mapping.")
    if "endpoint" in found:
        return EndpointClassifier.from_stored(found, path, given, trusted=trust_code)
    description = validated(_Description, found, source=str(path))
    if isinstance(given, str | EndpointClassifier):
        raise InputError(
            f"{folder} describes a classifier of its own ({description.architecture}), which no "
            "endpoint can stand in for; give its weights or network."
        )
    if len(description.mean) != len(description.std):
        raise InputError(f"{path}: mean and std must be of equally many channels.")
    classifier: AnyClassifier
    if isinstance(given, Classifier):
        classifier = given
    else:
        _require_trust(description, given, path, trust_code)
        given = given or _stored_file(description, folder)
        classifier = _classifier(description, given)
    if classifier.content_hash() != description.hash:
        name = given if isinstance(given, Path) else f"The given {type(given).__name__}"
        raise InputError(
            f"{name} is not the classifier that {folder} describes: its content hash is "
            f"{classifier.content_hash()[:12]}…, recorded is {description.hash[:12]}…."
        )
    if description.identity not in (None, network_identity(classifier.network)):
        warnings.warn(
            f"{folder}: {description.architecture} has other code or settings than when its "
            "certificates were computed; decrop verify tells whether they still hold.",
            stacklevel=2,
        )
    return classifier, description.class_names


def file_or_url(given: str | None) -> Path | str | None:
    """Return a path, or the URL of an endpoint as it is."""
    if given is None:
        return None
    return given if given.startswith(("http://", "https://")) else Path(given)


def _require_trust(
    description: _Description, given: Path | nn.Module | None, path: Path, trust_code: bool
) -> None:
    needs_code = imports_code(description.architecture)
    if needs_code and not isinstance(given, nn.Module) and not trust_code:
        raise InputError(
            f"{path}: the classifier is built by {description.architecture}, code that a bundle "
            "may not import by itself; give the network with classifier= in Python, or allow it "
            "with trust_code=True or --trust-code if you trust who made the bundle."
        )


def _stored_file(description: _Description, folder: Path) -> Path:
    file = folder / (PROGRAM if description.kind == "program" else _WEIGHTS)
    if not file.exists():
        raise InputError(
            f"{folder} describes a classifier without its weights; give them with "
            "--weights FILE, or with classifier= in Python."
        )
    return file


def _classifier(description: _Description, given: Path | nn.Module) -> Classifier:
    return Classifier(
        _network(description, given),
        architecture=description.architecture,
        mean=description.mean,
        std=description.std,
        class_count=len(description.class_names),
        arguments=description.arguments,
        input_size=description.input_size,
        channel_order=description.channel_order,
        feature_layer=description.feature_layer,
    )


def _network(description: _Description, given: Path | nn.Module) -> nn.Module:
    architecture = description.architecture
    if isinstance(given, nn.Module) and description.kind != "registered":
        return given
    if description.kind == "program":
        assert isinstance(given, Path)
        program = program_bytes(given, str(given))
        return ExportedNetwork(program, description.feature_layer, blamed=str(given))
    image_channels, class_count = len(description.mean), len(description.class_names)
    if architecture in CLASSIFIERS:
        build = partial(
            build_classifier_network,
            architecture,
            image_channels=image_channels,
            class_count=class_count,
        )
        if isinstance(given, Path):
            return built_with_weights(
                build, given, architecture=architecture, setting="classifier.weights"
            )
        network = build()
    elif description.kind == "factory":
        network = build_by_factory(architecture, description.arguments, group="classifier")
    else:
        network = build_by_name(
            architecture,
            description.arguments,
            image_channels=image_channels,
            class_count=class_count,
        )
    if isinstance(given, Path):
        load_weights(network, given, architecture=architecture)
    else:
        take_weights(network, given, architecture=architecture)
    return network
