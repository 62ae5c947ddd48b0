"""Weights from safetensors files: those that fit load, all others are told apart."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from decrop.classifiers.weights import built_with_weights, load_weights
from decrop.errors import InputError
from tests.cases import cases
from tests.decrop.classifiers.weight_files import network, written
from tests.refusals import one_line

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def weights() -> dict[str, Tensor]:
    """A state dict of which no tensor has its initial value."""
    torch.manual_seed(0)
    state = network().state_dict()
    return {
        name: torch.rand(tensor.shape) if tensor.is_floating_point() else tensor + 5
        for name, tensor in state.items()
    }


def message(network_: nn.Module, path: Path) -> str:
    text = one_line(load_weights, network_, path, architecture="cifar_resnet20")
    assert text.startswith("classifier.weights: ")
    assert str(path) in text
    return text


def test_weights_that_fit_are_loaded(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    loaded = network()
    load_weights(loaded, written(tmp_path / "w", weights), architecture="cifar_resnet20")
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_a_prefix_of_all_names_is_named(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    prefixed = {f"module.model.{name}": tensor for name, tensor in weights.items()}
    text = message(network(), written(tmp_path / "w", prefixed))
    assert "all its names begin with module.model., which `decrop classifier convert`" in text


def test_batch_counters_may_be_missing(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    kept = {name: value for name, value in weights.items() if "num_batches" not in name}
    assert len(kept) < len(weights)
    path = written(tmp_path / "w", kept)
    loaded = network()
    load_weights(loaded, path, architecture="cifar_resnet20")
    for name, tensor in kept.items():
        assert torch.equal(loaded.state_dict()[name], tensor)


@cases(
    ("name", "tensor", "said"),
    [
        ("layer2.0.downsample.0.weight", None, "it misses layer2.0.downsample.0.weight."),
        ("bn1.running_var", None, "it misses bn1.running_var."),
        ("fc.bias", None, "it misses fc.bias."),
        ("head.weight", torch.zeros(2), "it has the unknown key head.weight."),
        ("fc.weight", torch.zeros(100, 64), "has the shape (100, 64), expected (10, 64)."),
        # Numbers that would change.
        ("fc.bias", torch.zeros(10).to(torch.int8), "is of type int8, expected float32"),
        ("fc.bias", torch.zeros(10).to(torch.float64), "is of type float64, expected float32"),
        ("fc.bias", torch.zeros(10).to(torch.float8_e4m3fn), "of type complex64, expected float32"),
        ("fc.bias", torch.zeros(10).to(torch.bool), "is of type bool, expected float32"),
        ("fc.bias", torch.full((10,), torch.nan), "holds NaN or infinity"),
        ("fc.bias", torch.tensor([0.0] * 9 + [torch.inf]), "holds NaN or infinity"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, weights: dict[str, Tensor], name: str, tensor: Tensor | None, said: str
) -> None:
    changed = {**weights, name: tensor}
    kept = {key: value for key, value in changed.items() if value is not None}
    text = message(network(), written(tmp_path / "w", kept))
    assert "cifar_resnet20: " in text and name in text and said in text


def test_further_problems_are_counted_and_nothing_is_loaded(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    del weights["fc.bias"], weights["fc.weight"]
    weights["head"] = torch.zeros(2)
    untouched = network()
    before = {name: tensor.clone() for name, tensor in untouched.state_dict().items()}
    assert "it misses fc.bias (and 2 more)." in message(untouched, written(tmp_path / "w", weights))
    for name, tensor in untouched.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert "does not exist" in message(network(), tmp_path / "none.safetensors")
    assert "is a folder" in message(network(), tmp_path)


def test_pickle_is_refused_unread(tmp_path: Path) -> None:
    class Armed:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "executed",)  # type: ignore[return-value]

    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps(Armed()))
    text = message(network(), path)
    assert "is a pickle" in text and "can run any code" in text
    assert "decrop classifier convert" in text
    torch.save(network().state_dict(), path)
    assert "is a pickle" in message(network(), path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_shorter_numbers_are_taken_as_they_are(
    tmp_path: Path, weights: dict[str, Tensor], dtype: torch.dtype
) -> None:
    short = {n: t.to(dtype) if t.is_floating_point() else t for n, t in weights.items()}
    loaded = network()
    load_weights(loaded, written(tmp_path / "w", short), architecture="cifar_resnet20")
    assert torch.equal(loaded.state_dict()["fc.bias"], short["fc.bias"].float())


def test_a_file_without_end_is_not_opened() -> None:
    assert "is a device, not a regular file" in message(network(), Path("/dev/zero"))


def test_nothing_is_built_for_weights_that_do_not_fit(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    def build() -> nn.Module:
        assert torch.empty(0).is_meta
        return network(classes=50_000)

    with pytest.raises(InputError, match=r"fc\.bias has the shape"):
        built_with_weights(
            build, written(tmp_path / "w", weights), architecture="any", setting=None
        )
