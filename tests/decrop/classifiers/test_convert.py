"""Checkpoints as people save them become weights that load."""

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from decrop.classifiers.convert import convert
from decrop.classifiers.weights import load_weights
from decrop.cli.main import run
from decrop.errors import InputError
from decrop.networks.registry import build_classifier_network

State = dict[str, Tensor]


def state() -> State:
    torch.manual_seed(0)
    made = build_classifier_network("cifar_resnet20", image_channels=3, class_count=10)
    return {name: torch.rand_like(tensor.float()) for name, tensor in made.state_dict().items()}


def prefixed(prefix: str) -> Callable[[State], Any]:
    return lambda weights: {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def of_cohen(weights: State) -> Any:
    named = prefixed("1.module.")(weights)
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    return {"epoch": 90, "arch": "cifar_resnet20", "state_dict": named, "optimizer": optimizer}


def of_others(weights: State) -> Any:
    renamed = [
        (name.replace("downsample", "shortcut").replace("fc.", "linear."), tensor)
        for name, tensor in weights.items()
    ]
    return {"net": OrderedDict(renamed), "acc": 91.2}


def normalised(weights: State) -> Any:
    constants = {"0.mean": torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), "0.std": torch.ones(3)}
    return constants | prefixed("1.")(weights)


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        (prefixed(""), []),
        (prefixed("module."), ["took the prefix module. from all names"]),
        (prefixed("_orig_mod.module."), ["took the prefix _orig_mod.module. from all names"]),
        (prefixed("model."), ["took the prefix model. from all names"]),
        (of_cohen, ["from state_dict, and left epoch, arch, optimizer", "the prefix 1.module."]),
        (of_others, ["took the weights from net", "tensors by their order and shapes"]),
        (normalised, ["took the prefix 1.", "kept the constants of its normalisation layer"]),
    ],
)
def test_a_checkpoint_becomes_weights(
    saved: Callable[[State], Any],
    said: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = state()
    torch.save(saved(weights), tmp_path / "checkpoint.pth.tar")
    out = tmp_path / "weights.safetensors"
    asked = ["classifier", "convert", str(tmp_path / "checkpoint.pth.tar"), "--out", str(out)]
    assert run([*asked, "--json"]) == 0
    shown = capsys.readouterr().out
    for part in said:
        assert part in shown
    settings = json.loads(shown.splitlines()[-1])["settings"]
    assert settings[1] == "classifier.source=cifar_resnet20"
    assert settings[2:] == (
        ["classifier.mean=[0.5,0.4,0.3]", "classifier.std=[1,1,1]"] if saved is normalised else []
    )
    network = build_classifier_network("cifar_resnet20", image_channels=3, class_count=10)
    load_weights(network, out, architecture="cifar_resnet20")
    for name, tensor in network.named_parameters():
        assert torch.equal(tensor, weights[name])
    assert run(asked) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_network_of_ones_own_keeps_its_names(tmp_path: Path) -> None:
    own = {
        "model.mean": torch.ones(3),
        "model.first.weight": torch.ones(2, 3, 1, 1),
        "model.last.weight": torch.ones(4, 2),
    }
    save_file(own, tmp_path / "own.safetensors")
    assert convert(tmp_path / "own.safetensors").weights.keys() == own.keys()
    torch.save(prefixed("module.")(own), tmp_path / "own.pt")
    found = convert(tmp_path / "own.pt")
    assert found.source is None
    assert found.weights.keys() == own.keys()


class Anything:
    """An object that a checkpoint should not hold."""


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (Anything(), "holds more than tensors"),
        ([torch.ones(1)], "holds a list; expected the state_dict"),
        ({"epoch": 3}, "holds no state_dict"),
        ({"a": {"w": torch.ones(1)}, "b": {"w": torch.ones(1)}}, r"several networks \(a, b\)"),
    ],
)
def test_what_is_no_checkpoint_is_refused(saved: Any, message: str, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "c.pt")
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "c.pt")


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"PK\x03\x04 torn", b"\x80\x02torn"])
def test_a_broken_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"c\.pt"):
        convert(tmp_path / "c.pt")
