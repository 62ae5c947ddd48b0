import copy
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decrop.networks.identity import network_identity, remember_settings
from tests.cases import cases


@dataclass
class Options:
    """Settings as packages of models keep them."""

    depth: int = 2
    names: tuple[str, ...] = ("a", "b")


def scaled(factor: float) -> Callable[[Tensor], Tensor]:
    """Return a function that holds its factor."""
    return lambda images: factor * images


class Net(nn.Module):
    """A network with whatever attributes are given."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 2)
        for name, value in attributes.items():
            setattr(self, name, value)


DIFFERENT: list[tuple[Any, Any]] = [
    (1, 2),
    (1, True),
    (0.1, 0.1 + 1e-17 + 1e-16),
    (torch.ones(2), torch.tensor([1.0, 2.0])),
    (torch.ones(2), torch.ones(2, dtype=torch.float64)),
    ([1, 2], [2, 1]),
    ({"a": {"b": 1}}, {"a": {"b": 2}}),
    (Options(), Options(depth=3)),
    (F.relu, F.gelu),
    (torch.relu, torch.tanh),
    (nn.ReLU, nn.GELU),
    (scaled(1.0), scaled(2.0)),
    (partial(F.leaky_relu, negative_slope=0.1), partial(F.leaky_relu, negative_slope=0.2)),
    (nn.ReLU(), nn.GELU()),
    ([nn.Linear(2, 2)], [nn.Linear(2, 2)]),
]


@cases(("one", "other"), DIFFERENT)
def test_a_setting_is_a_part_of_the_identity(one: Any, other: Any) -> None:
    assert network_identity(Net(how=one)) == network_identity(Net(how=one))
    assert network_identity(Net(how=one)) != network_identity(Net(how=other))


def test_what_a_network_keeps_of_its_computing_is_no_part_once_it_is_remembered() -> None:
    fresh, used = Net(how=torch.ones(2), kept=None), Net(how=torch.ones(2), kept=None)
    expected = network_identity(fresh)
    remember_settings(used)
    assert network_identity(used) == expected
    used.kept, used.new = torch.rand(3), torch.rand(3)
    assert network_identity(used) == network_identity(copy.deepcopy(used)) == expected
    used.linear.bias.data += 1
    assert network_identity(used) != expected
    other = Net(how=torch.zeros(2), kept=None)
    remember_settings(other)
    assert network_identity(other) != expected


def test_structure_weights_and_hooks_are_parts_and_the_mode_is_not() -> None:
    def convolution(**changes: Any) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(2, 2, 3, **{"padding": 1, **changes}))

    plain = network_identity(convolution())
    assert network_identity(convolution().eval()) == plain
    for changes in ({"padding": 2}, {"stride": 2}, {"padding_mode": "reflect"}, {"dilation": 2}):
        assert network_identity(convolution(**changes)) != plain
    moved, hooked = convolution(), convolution()
    next(moved.parameters()).data[0, 0, 0, 0] += 1e-6
    hooked.register_forward_hook(lambda module, given, output: -output)
    assert len({plain, network_identity(moved), network_identity(hooked)}) == 3
    tied = nn.Sequential(*[nn.Linear(2, 2)] * 2)
    assert network_identity(tied) == network_identity(tied)


def test_the_source_of_a_class_is_a_part(tmp_path: Path) -> None:
    source = "from torch import nn\nclass Own(nn.Module):\n    def forward(self, x): return {}\n"

    def built(text: str) -> nn.Module:
        path = tmp_path / "own_network.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("own_network", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["own_network"] = module
        spec.loader.exec_module(module)
        network: nn.Module = module.Own()
        return network

    try:
        one, same, other = (
            network_identity(built(source.format(what))) for what in ("x", "x", "-x")
        )
    finally:
        sys.modules.pop("own_network", None)
    assert one == same != other
