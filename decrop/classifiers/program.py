"""Programs of torch.export as networks whose features can be read."""

import copy
import difflib
import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from decrop.classifiers.program_graph import read_program
from decrop.errors import InputError

_LISTED = 8


def unknown_layer(name: str, known: list[str]) -> InputError:
    """Return the error that a network has no layer of a name, with the likeliest ones."""
    near = difflib.get_close_matches(name, known, n=3)
    last = [other for other in known if other not in near]
    candidates = [*near, *last[-(_LISTED - len(near)) :]]
    return InputError(
        f"classifier.feature_layer: the network has no layer {name!r}; candidates are "
        f"{', '.join(candidates) or 'none'}."
    )


_FEATURES = "decrop_feature_input"
_ATEN = torch.ops.aten
# Which argument of an operator is what a last layer takes.
_LAST_LAYERS: dict[Any, int] = {
    _ATEN.linear.default: 0,
    _ATEN.addmm.default: 1,
    _ATEN.mm.default: 0,
    _ATEN.conv2d.default: 0,
    _ATEN.conv2d.padding: 0,
    _ATEN.convolution.default: 0,
}


class FeatureInput(nn.Identity):
    """Marks what a layer of a program takes, so that a hook can read it.

    Attributes:
        of_linear: whether the layer is linear, so that the last dimension is the features'.
    """

    def __init__(self, *, of_linear: bool) -> None:
        super().__init__()
        self.of_linear = of_linear


class ExportedNetwork(nn.Module):
    """Runs a program of torch.export on batches of any size, in any precision, on any device.

    Attributes:
        program: the file's content, which also is how it is pickled.
        image_shape: channels, height and width; None where the program takes any.
        feature_layer: whose input is the features: as named, or the last linear layer or
            convolution.
    """

    def __init__(self, program: bytes, feature_layer: str | None, *, blamed: str) -> None:
        """Load a program.

        Args:
            feature_layer: name of the module, in the network that was exported, whose input is the
                features.
            blamed: what an error begins with, such as the setting and the file.
        """
        super().__init__()
        self.program = program
        self.program_hash = hashlib.sha256(program).hexdigest()
        self._named_layer = feature_layer
        module, self.image_shape = read_program(program, blamed)
        _check_eval_mode(module, blamed)
        node, self.feature_layer = _feature_node(module, feature_layer)
        self.feature_input = _mark_features(module, node)
        _make_general(module)
        self.graph_module = module

    def forward(self, images: Tensor) -> Tensor:
        """Run the program: images [B, C, H, W] to logits [B, K]."""
        logits: Tensor = self.graph_module(images)
        return logits

    def train(self, mode: bool = True) -> "ExportedNetwork":
        """Stay as exported: a program has no modes."""
        return self

    def identity(self) -> list[str | None]:
        """Return what decides the answers (`decrop.networks.identity`)."""
        return [self.program_hash, self._named_layer]

    def __deepcopy__(self, memo: dict[int, Any]) -> "ExportedNetwork":
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        copied.__dict__ = {name: copy.deepcopy(v, memo) for name, v in self.__dict__.items()}
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.program, self._named_layer)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ExportedNetwork":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = next((tensor.device for tensor in self.state_dict().values()), None)
        made = [node for node in self.graph_module.graph.nodes if node.kwargs.get("device")]
        if device is not None and any(node.kwargs["device"] != device for node in made):
            for node in made:
                node.update_kwarg("device", device)
            self.graph_module.recompile()
        return self


def _unpickled(program: bytes, feature_layer: str | None) -> ExportedNetwork:
    return ExportedNetwork(program, feature_layer, blamed="the pickled program")


def _check_eval_mode(module: fx.GraphModule, blamed: str) -> None:
    for node in module.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None:
            continue
        given = dict(zip((a.name for a in schema.arguments), node.args, strict=False))
        given |= node.kwargs
        modes = [given[name] for name in ("train", "training") if name in given]
        # Not whether it is true: it could be computed.
        if any(mode is not False for mode in modes) or given.get("dropout_p", 0) != 0:
            raise InputError(
                f"{blamed} was exported in training mode ({node.target}), so an answer would "
                "depend on chance or on the other images; call network.eval() before exporting."
            )


def _feature_node(module: fx.GraphModule, feature_layer: str | None) -> tuple[fx.Node, str]:
    """Return the first node of the named layer, or the last of all last layers, and its name."""
    computing = [node for node in module.graph.nodes if node.op == "call_function"]
    if feature_layer is None:
        last = [node for node in computing if node.target in _LAST_LAYERS]
        if not last:
            raise InputError(
                "classifier.feature_layer: the program has no linear layer or convolution; name "
                "the module whose input is the features."
            )
        paths = _module_paths(last[-1])
        return last[-1], paths[-1] if paths else last[-1].name
    by_name: dict[str, fx.Node] = {}
    for node in computing:
        for path in _module_paths(node):
            by_name.setdefault(path, node)
    if feature_layer not in by_name:
        raise unknown_layer(feature_layer, list(by_name))
    return by_name[feature_layer], feature_layer


def _module_paths(node: fx.Node) -> list[str]:
    """Return the names of the exported network's modules that a node lies in, outermost first."""
    stack = node.meta.get("nn_module_stack") or {}
    return [path for path, _ in stack.values() if path]


def _mark_features(module: fx.GraphModule, node: fx.Node) -> FeatureInput:
    position = _LAST_LAYERS.get(node.target)
    taken = node.args[position] if position is not None else _first_activation(node)
    if not isinstance(taken, fx.Node):
        raise InputError(
            f"classifier.feature_layer: what {node.name} takes cannot be read; name another module."
        )
    marker = FeatureInput(of_linear=node.target is _ATEN.linear.default)
    module.add_module(_FEATURES, marker)
    with module.graph.inserting_before(node):
        marked = module.graph.call_module(_FEATURES, (taken,))
    marked.meta = dict(taken.meta)
    node.replace_input_with(taken, marked)
    return marker


def _first_activation(node: fx.Node) -> fx.Node | None:
    return next((found for found in node.all_input_nodes if found.op != "get_attr"), None)


def _make_general(module: fx.GraphModule) -> None:
    """Let the graph run in other precisions and memory formats than those of the export."""
    for node in list(module.graph.nodes):
        if node.target is _ATEN.view.default:
            # A view of channels_last tensors may be impossible, where the network itself copies.
            node.target = _ATEN.reshape.default
    module.recompile()
