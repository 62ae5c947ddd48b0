"""A stored classifier comes back to the bit, or not at all."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from decrop.classifiers.classifier import Classifier
from decrop.classifiers.stored import load_stored_classifier, store_classifier
from decrop.errors import InputError
from decrop.files import read_json, write_json
from decrop.networks.registry import build_classifier_network
from tests.decrop.digits_trial import files_in

NAMES = ("circle", "square", "star")


def classifier(seed: int = 0) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_classifier_network("small_cnn", image_channels=3, class_count=len(NAMES))
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
    return Classifier(
        network,
        architecture="small_cnn",
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.25),
        class_count=len(NAMES),
    )


def weights_file(folder: Path, seed: int) -> Path:
    path = folder / f"weights{seed}.safetensors"
    save_file(classifier(seed).network.state_dict(), path)
    return path


def refusal(folder: Path, weights: Path | None = None) -> str:
    with pytest.raises(InputError) as error:
        load_stored_classifier(folder, given=weights)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_classifier_comes_back_to_the_bit(tmp_path: Path) -> None:
    original = classifier()
    store_classifier(original, NAMES, tmp_path)
    loaded, names = load_stored_classifier(tmp_path)
    assert names == NAMES
    assert loaded.architecture == "small_cnn"
    assert loaded.class_count == len(NAMES)
    assert loaded.content_hash() == original.content_hash()
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded(images), original(images))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.network.training


def test_description_says_what_is_protected(tmp_path: Path) -> None:
    store_classifier(classifier(), NAMES, tmp_path)
    assert files_in(tmp_path) == {"classifier.json", "weights.safetensors"}
    description = read_json(tmp_path / "classifier.json")
    assert description["architecture"] == "small_cnn"
    assert description["class_names"] == list(NAMES)
    assert description["hash"] == classifier().content_hash()
    assert torch.equal(torch.tensor(description["mean"]), torch.tensor((0.4, 0.5, 0.6)))


def test_weights_can_be_left_out_and_given_later(tmp_path: Path) -> None:
    folder = tmp_path / "stored"
    store_classifier(classifier(), NAMES, folder, with_weights=False)
    assert files_in(folder) == {"classifier.json"}
    assert "--weights FILE" in refusal(folder)
    missing = tmp_path / "none.safetensors"
    assert refusal(folder, missing) == f"classifier.weights: {missing} does not exist."
    loaded, _ = load_stored_classifier(folder, given=weights_file(tmp_path, 0))
    assert loaded.content_hash() == classifier().content_hash()


def test_weights_of_another_classifier_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "stored"
    store_classifier(classifier(), NAMES, folder, with_weights=False)
    other = weights_file(tmp_path, 1)
    message = refusal(folder, other)
    assert message.startswith(f"{other} is not the classifier that {folder} describes")
    assert classifier(1).content_hash()[:12] in message
    assert classifier(0).content_hash()[:12] in message


def test_given_weights_are_read_although_there_are_some_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "stored"
    store_classifier(classifier(), NAMES, folder)
    assert "is not the classifier" in refusal(folder, weights_file(tmp_path, 1))


def test_changed_standardisation_is_noticed(tmp_path: Path) -> None:
    store_classifier(classifier(), NAMES, tmp_path)
    description = read_json(tmp_path / "classifier.json")
    write_json(tmp_path / "classifier.json", description | {"mean": [0.4, 0.5, 0.7]})
    assert "content hash" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [("drop", "misses fc.bias"), ("shape", "fc.bias has the shape (4,), expected (3,)")],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: str, named: str) -> None:
    store_classifier(classifier(), NAMES, tmp_path)
    weights = load_file(tmp_path / "weights.safetensors")
    del weights["fc.bias"]
    if change == "shape":
        weights["fc.bias"] = torch.zeros(4)
    save_file(weights, tmp_path / "weights.safetensors")
    message = refusal(tmp_path)
    assert named in message
    assert str(tmp_path / "weights.safetensors") in message


def test_a_folder_without_description_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path / 'classifier.json'} does not exist."
