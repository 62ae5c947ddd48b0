"""A stored classifier comes back to the bit, or not at all."""

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import decrop.classifiers.storage
from decrop.classifiers.classifier import Classifier
from decrop.classifiers.program import ExportedNetwork
from decrop.classifiers.storage import load_stored_classifier, store_classifier
from decrop.errors import InputError
from decrop.files import read_json, write_json
from decrop.networks.registry import build_classifier_network
from tests.decrop.classifiers.exported import program_of
from tests.decrop.classifiers.factories import make
from tests.decrop.digits_trial import files_in
from tests.refusals import one_line

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
    return one_line(load_stored_classifier, folder, given=weights)


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
    # What is the default is not written down.
    assert list(description) == ["architecture", "mean", "std", "class_names", "hash"]
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


def test_given_weights_are_read_although_there_are_some_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "stored"
    store_classifier(classifier(), NAMES, folder)
    assert "is not the classifier" in refusal(folder, weights_file(tmp_path, 1))


def test_a_folder_without_description_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path / 'classifier.json'} does not exist."


FACTORY = "tests.decrop.classifiers.factories:make"


def by_factory() -> Classifier:
    network = make(width=3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    return Classifier(
        network,
        architecture=FACTORY,
        mean=(0.5,),
        std=(0.25,),
        class_count=4,
        arguments={"width": 3},
        input_size=(6, 6),
        feature_layer="1",
    )


FOUR = ("a", "b", "c", "d")
IMAGES = torch.rand(3, 1, 9, 9, generator=torch.Generator().manual_seed(0))


def test_code_is_imported_only_where_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = by_factory()
    store_classifier(original, FOUR, tmp_path)
    imported: list[str] = []

    def build(source: str, arguments: Any, **_: str) -> torch.nn.Module:
        imported.append(source)
        return make(**arguments)

    monkeypatch.setattr(decrop.classifiers.storage, "build_by_factory", build)
    for weights in (None, tmp_path / "weights.safetensors"):
        message = refusal(tmp_path, weights)
        assert FACTORY in message and "trust_code=True" in message and "--trust-code" in message
    assert not imported
    loaded, _ = load_stored_classifier(tmp_path, trust_code=True)
    assert imported == [FACTORY]
    assert torch.equal(loaded(IMAGES), original(IMAGES))
    assert loaded.description() == original.description()
    assert loaded.content_hash() == original.content_hash()


def test_a_network_that_is_given_needs_no_trust(tmp_path: Path) -> None:
    original = by_factory()
    store_classifier(original, FOUR, tmp_path, with_weights=False)
    for given in (original, original.network):
        loaded, _ = load_stored_classifier(tmp_path, given=given)
        assert torch.equal(loaded(IMAGES), original(IMAGES))
    with pytest.raises(InputError, match="is not the classifier that"):
        load_stored_classifier(tmp_path, given=make(width=3))


def test_other_code_behind_the_same_weights_is_told(tmp_path: Path) -> None:
    original = by_factory()
    store_classifier(original, FOUR, tmp_path)
    other = copy.deepcopy(original)
    assert isinstance(other.network, torch.nn.Sequential)
    other.network[2] = torch.nn.GELU()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_stored_classifier(tmp_path, given=original)
    with pytest.warns(UserWarning, match="has other code or settings than when its certificates"):
        load_stored_classifier(tmp_path, given=other)


@pytest.mark.parametrize("architecture", ["timm/resnet18", "torchvision/resnet18"])
def test_models_of_other_packages_need_trust_too(tmp_path: Path, architecture: str) -> None:
    original = by_factory()
    original.architecture = architecture
    store_classifier(original, FOUR, tmp_path)
    assert f"built by {architecture}, code that a bundle may not import" in refusal(tmp_path)


@pytest.mark.parametrize("architecture", ["other.pt2", "models:/m/1", "auto", "vgg", "os:system("])
def test_what_cannot_have_been_stored_is_refused(tmp_path: Path, architecture: str) -> None:
    store_classifier(classifier(), NAMES, tmp_path)
    path = tmp_path / "classifier.json"
    write_json(path, read_json(path) | {"architecture": architecture})
    assert f"{path}: architecture = '{architecture}'" in refusal(tmp_path)


def test_a_program_is_stored_as_it_was(tmp_path: Path) -> None:
    program = program_of()
    original = Classifier(
        ExportedNetwork(program, "1", blamed="it"),
        architecture="program.pt2",
        mean=(0.5,),
        std=(0.25,),
        class_count=4,
        input_size=(6, 6),
        feature_layer="1",
    )
    store_classifier(original, FOUR, tmp_path / "with")
    assert files_in(tmp_path / "with") == {"classifier.json", "program.pt2"}
    assert (tmp_path / "with" / "program.pt2").read_bytes() == program
    loaded, _ = load_stored_classifier(tmp_path / "with")
    for one, other in zip(
        loaded.logits_and_features(IMAGES), original.logits_and_features(IMAGES), strict=True
    ):
        assert torch.equal(one, other)
    store_classifier(original, FOUR, tmp_path / "without", with_weights=False)
    assert "without its weights" in refusal(tmp_path / "without")
    given = tmp_path / "with" / "program.pt2"
    again, _ = load_stored_classifier(tmp_path / "without", given=given)
    assert again.content_hash() == original.content_hash()
