"""Weights are recognised by their names and shapes, and what does not fit is told what it is."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from decrop._torchvision import torchvision
from decrop.classifiers.recognition import matching_architecture
from decrop.config import ClassifierArchitecture
from decrop.config.classifier_source import CLASSIFIERS
from decrop.errors import InputError
from decrop.networks.registry import build_classifier_network
from tests.cases import cases
from tests.decrop.classifiers.weight_files import network, written
from tests.refusals import one_line

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return network().state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", CLASSIFIERS)
@pytest.mark.parametrize(("image_channels", "class_count"), [(3, 10), (1, 4)])
def test_every_architecture_is_recognised(
    tmp_path: Path, architecture: ClassifierArchitecture, image_channels: int, class_count: int
) -> None:
    made = build_classifier_network(
        architecture, image_channels=image_channels, class_count=class_count
    )
    path = written(tmp_path / "w", made.state_dict())
    found = matching_architecture(path, image_channels=image_channels, class_count=class_count)
    assert found == architecture


@pytest.mark.parametrize(
    ("architecture", "problem"),
    [
        ("small_cnn", "fc.weight has the shape (7, 64), expected (10, 64)"),
        ("cifar_resnet20", "fc.weight has the shape (7, 64), expected (10, 64)"),
        ("cifar_resnet56", "fc.weight has the shape (7, 64), expected (10, 64)"),
    ],
)
def test_misfit_names_the_nearest(
    tmp_path: Path, architecture: ClassifierArchitecture, problem: str
) -> None:
    state = dict(reversed(network(architecture, classes=7).state_dict().items()))
    del state["fc.bias"]
    state["fc.bias"] = torch.zeros(10)
    path = written(tmp_path / "w", state)
    text = one_line(matching_architecture, path, image_channels=3, class_count=10)
    assert all(name in text for name in CLASSIFIERS)
    assert "with 10 classes and 3 channels" in text
    assert f"nearest is {architecture}: {problem}." in text


def test_deeper_network_than_registered_is_no_match(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    weights["layer1.3.conv1.weight"] = torch.zeros(16, 16, 3, 3)
    with pytest.raises(
        InputError, match=r"cifar_resnet20: it has the unknown key layer1\.3\.conv1"
    ):
        matching_architecture(written(tmp_path / "w", weights), image_channels=3, class_count=10)


def test_unreadable_file_matches_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        matching_architecture(tmp_path / "none", image_channels=3, class_count=10)
    (tmp_path / "w").write_bytes(b"x" * 100)
    with pytest.raises(InputError, match="is not a safetensors file"):
        matching_architecture(tmp_path / "w", image_channels=3, class_count=10)


def test_batch_counters_may_be_missing(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    kept = {name: value for name, value in weights.items() if "num_batches" not in name}
    path = written(tmp_path / "w", kept)
    assert matching_architecture(path, image_channels=3, class_count=10) == "cifar_resnet20"


def prefixed_resnet110() -> dict[str, Tensor]:
    made = network("cifar_resnet110").state_dict()
    return {f"1.module.{name}": tensor for name, tensor in made.items()}


def torchvisions_resnet18() -> dict[str, Tensor]:
    made: dict[str, Tensor] = torchvision.models.resnet18(num_classes=5).state_dict()
    return made


@cases(
    ("made", "among", "said"),
    [
        (
            prefixed_resnet110,
            tuple(CLASSIFIERS),
            [
                "nearest is cifar_resnet110: ",
                "All its names begin with 1.module.. It holds cifar_resnet110 of 10 classes and 3 ",
                "`decrop classifier convert",
            ],
        ),
        (
            torchvisions_resnet18,
            ("resnet18",),
            [
                "It holds torchvision/resnet18 of 5 classes and 3 channels: ",
                "set classifier.source=torchvision/resnet18.",
            ],
        ),
    ],
)
def test_what_weights_are_is_told(
    made: Callable[[], dict[str, Tensor]],
    among: tuple[str, ...],
    said: list[str],
    tmp_path: Path,
) -> None:
    path = written(tmp_path / "w", made())
    with pytest.raises(InputError) as error:
        matching_architecture(path, image_channels=3, class_count=10, among=among)
    assert all(part in str(error.value) for part in said), error.value
