"""A stored classifier comes back as the same function, or not at all."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from decrop.classifiers.classifier import Classifier
from decrop.classifiers.stored import load_stored_classifier, store_classifier
from decrop.errors import InputError
from decrop.files import read_json, write_json
from decrop.networks.registry import build_classifier_network

NAMES = ("cat", "dog", "owl")


def classifier(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    network = build_classifier_network("small_cnn", image_channels=2, class_count=3)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
    return Classifier(
        network, architecture="small_cnn", mean=(0.1, 0.2), std=(0.3, 0.7), class_count=3
    )


def test_classifier_survives(tmp_path: Path) -> None:
    stored = classifier()
    store_classifier(stored, NAMES, tmp_path)
    loaded, names = load_stored_classifier(tmp_path)
    assert names == NAMES
    assert loaded.content_hash() == stored.content_hash()
    images = torch.rand(4, 2, 8, 8)
    assert torch.equal(loaded(images), stored(images))
    assert loaded.class_count == 3


def test_weights_may_lie_elsewhere(tmp_path: Path) -> None:
    stored = classifier()
    store_classifier(stored, NAMES, tmp_path, with_weights=False)
    assert {path.name for path in tmp_path.iterdir()} == {"classifier.json"}
    with pytest.raises(InputError, match=r"without its weights; give them with --weights FILE"):
        load_stored_classifier(tmp_path)
    save_file(stored.network.state_dict(), tmp_path / "mine.safetensors")
    loaded, _ = load_stored_classifier(tmp_path, weights=tmp_path / "mine.safetensors")
    assert loaded.content_hash() == stored.content_hash()


def test_another_classifiers_weights_are_refused(tmp_path: Path) -> None:
    store_classifier(classifier(0), NAMES, tmp_path)
    save_file(classifier(1).network.state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"is not the classifier that .* describes"):
        load_stored_classifier(tmp_path, weights=tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="does not exist"):
        load_stored_classifier(tmp_path, weights=tmp_path / "none.safetensors")


def test_changed_standardisation_is_noticed(tmp_path: Path) -> None:
    store_classifier(classifier(), NAMES, tmp_path)
    description = read_json(tmp_path / "classifier.json")
    write_json(tmp_path / "classifier.json", description | {"mean": [0.1, 0.3]})
    with pytest.raises(InputError, match="content hash"):
        load_stored_classifier(tmp_path)


def test_folder_without_a_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"classifier\.json does not exist"):
        load_stored_classifier(tmp_path)
