"""A classifier in a folder of its own: a description and, unless left out, its weights."""

from pathlib import Path

from pydantic import Field
from safetensors.torch import save_file
from torch import nn

from decrop.classifiers.classifier import Classifier
from decrop.classifiers.weights import load_weights, take_weights
from decrop.config import ClassifierArchitecture, Positive, Settings
from decrop.documents import validated
from decrop.errors import InputError
from decrop.files import read_json, write_json, write_whole
from decrop.networks.registry import build_classifier_network

_DESCRIPTION = "classifier.json"
_WEIGHTS = "weights.safetensors"


class _Description(Settings):
    """classifier.json."""

    architecture: ClassifierArchitecture
    mean: tuple[float, ...] = Field(min_length=1)
    std: tuple[Positive, ...] = Field(min_length=1)
    class_names: tuple[str, ...] = Field(min_length=2)
    hash: str


def store_classifier(
    classifier: Classifier,
    class_names: tuple[str, ...],
    folder: Path,
    *,
    with_weights: bool = True,
) -> None:
    """Write a classifier to `folder`; the description, written last, carries its content hash."""
    if with_weights:
        weights = {k: v.cpu().contiguous() for k, v in classifier.network.state_dict().items()}
        write_whole(folder / _WEIGHTS, lambda temporary: save_file(weights, temporary))
    description = {
        "architecture": classifier.architecture,
        "mean": classifier.mean.flatten().tolist(),
        "std": classifier.std.flatten().tolist(),
        "class_names": list(class_names),
        "hash": classifier.content_hash(),
    }
    write_json(folder / _DESCRIPTION, description)


def load_stored_classifier(
    folder: Path, *, given: Path | nn.Module | None = None
) -> tuple[Classifier, tuple[str, ...]]:
    """Read a classifier and the names of its classes.

    Args:
        folder: that `store_classifier` wrote.
        given: where the folder has no weights: a safetensors file, the `Classifier`, or a network
            of its architecture, whose weights are taken.

    Raises:
        InputError: the description is malformed; there are no weights, they do not fit, or they are
            another classifier's.
    """
    path = folder / _DESCRIPTION
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path} must hold a mapping.")
    description = validated(_Description, found, source=str(path))
    if len(description.mean) != len(description.std):
        raise InputError(f"{path}: mean and std must be of equally many channels.")
    if given is None:
        given = folder / _WEIGHTS
        if not given.exists():
            raise InputError(
                f"{folder} describes a classifier without its weights; give them with "
                "--weights FILE, or with classifier= in Python."
            )
    classifier = given if isinstance(given, Classifier) else _classifier(description, given)
    if classifier.content_hash() != description.hash:
        name = given if isinstance(given, Path) else f"The given {type(given).__name__}"
        raise InputError(
            f"{name} is not the classifier that {folder} describes: its content hash is "
            f"{classifier.content_hash()[:12]}…, recorded is {description.hash[:12]}…."
        )
    return classifier, description.class_names


def _classifier(description: _Description, given: Path | nn.Module) -> Classifier:
    network = build_classifier_network(
        description.architecture,
        image_channels=len(description.mean),
        class_count=len(description.class_names),
    )
    if isinstance(given, Path):
        load_weights(network, given, architecture=description.architecture)
    else:
        take_weights(network, given, architecture=description.architecture)
    return Classifier(
        network,
        architecture=description.architecture,
        mean=description.mean,
        std=description.std,
        class_count=len(description.class_names),
    )
