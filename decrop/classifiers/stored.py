"""A classifier in a folder of its own: a description and, unless left out, its weights."""

from pathlib import Path

from safetensors.torch import save_file

from decrop.classifiers.classifier import Classifier
from decrop.classifiers.weights import load_weights
from decrop.errors import InputError
from decrop.files import read_json, write_json, write_whole
from decrop.networks.registry import build_classifier_network

_DESCRIPTION = "classifier.json"
_WEIGHTS = "weights.safetensors"


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
    folder: Path, *, weights: Path | None = None
) -> tuple[Classifier, tuple[str, ...]]:
    """Read a classifier and the names of its classes.

    Args:
        folder: that `store_classifier` wrote.
        weights: safetensors file, where the folder has none.

    Raises:
        InputError: there are no weights, they do not fit, or they are another classifier's.
    """
    description = read_json(folder / _DESCRIPTION)
    weights = weights or folder / _WEIGHTS
    if weights == folder / _WEIGHTS and not weights.exists():
        raise InputError(
            f"{folder} describes a classifier without its weights; give them with --weights FILE."
        )
    class_names = tuple(description["class_names"])
    network = build_classifier_network(
        description["architecture"],
        image_channels=len(description["mean"]),
        class_count=len(class_names),
    )
    load_weights(network, weights, architecture=description["architecture"])
    classifier = Classifier(
        network,
        architecture=description["architecture"],
        mean=tuple(description["mean"]),
        std=tuple(description["std"]),
        class_count=len(class_names),
    )
    if classifier.content_hash() != description["hash"]:
        raise InputError(
            f"{weights} is not the classifier that {folder} describes: its content hash is "
            f"{classifier.content_hash()[:12]}…, recorded is {description['hash'][:12]}…."
        )
    return classifier, class_names
