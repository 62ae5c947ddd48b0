"""The graph of a program of torch.export, built anew of listed operators."""

import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from decrop.classifiers.program_archive import DTYPES, EXPORT_ANEW, ProgramRecords, read_records
from decrop.classifiers.program_operators import (
    ASSERTIONS,
    SIZE_FUNCTIONS,
    find_operator,
    makes_memory,
    written_arguments,
)
from decrop.errors import InputError
from decrop.wording import counted

ImageShape = tuple[int | None, int | None, int | None]

_MOST_NODES = 20_000
# Of one result, for each image: the largest of torchvision's have 13 MB.
_MOST_BYTES_AN_IMAGE = 1 << 28
# Torchvision's largest make a quarter of it, most of which need not be kept.
_MOST_BYTES_IN_ALL = 1 << 32
_MOST_PIECES = 10_000
# Linear layers of ViT's in parts expand their weights to each position.
_EXPANDED = 16
_FEW, _MANY = 1, 4096
_SIZE_BITS, _MOST_SIZE_BITS = 32, 1024
_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    4: torch.preserve_format,
}
_STRIDED = 7
_DYNAMIC = "dynamic_shapes=({0: torch.export.Dim('batch')},)"


def read_program(program: bytes, blamed: str) -> tuple[fx.GraphModule, ImageShape]:
    """Read a program of torch.export from the bytes of its file.

    Returns:
        images [B, C, H, W] to logits; and C, H and W, None where it takes any.

    Raises:
        InputError: it is no such file, is damaged, calls an operator that is not listed, writes
            into its weights, makes tensors that are too large, is not of one batch of images to one
            tensor, or was exported for one batch size.
    """
    try:
        records = read_records(program, blamed)
        value = _image_value(records.graph_module, blamed)
        module = _Builder(records, blamed).build()
        shape, example = _image_shape(value, blamed)
        dtype = DTYPES[value["dtype"]]
    except InputError:
        raise
    except Exception as error:  # a damaged file fails anywhere
        raise InputError(
            f"{blamed} is not a program of torch.export ({_first_line(error)}); {EXPORT_ANEW}."
        ) from None
    for images in (_FEW, _MANY):
        _check_sizes(module, images, example, dtype, blamed)
    return module, shape


class _Builder:
    """Builds a module from records; names in the file never become code."""

    def __init__(self, records: ProgramRecords, blamed: str) -> None:
        self._records = records
        self._blamed = blamed
        self._graph = fx.Graph()
        self._root = nn.Module()
        self._nodes: dict[str, fx.Node] = {}
        # Whose memory the program made itself, so that it may write there.
        self._own: set[fx.Node] = set()
        self._size_bits: dict[fx.Node, int] = {}
        # Buffers that a state_dict does not have.
        self._passing: list[str] = []

    def build(self) -> fx.GraphModule:
        described = self._records.graph_module
        graph = described["graph"]
        if len(graph["nodes"]) > _MOST_NODES:
            raise InputError(
                f"{self._blamed} has {len(graph['nodes']):,} nodes; {_MOST_NODES:,} are allowed."
            )
        specs = described["signature"]["input_specs"]
        for given, spec in zip(graph["inputs"], specs, strict=True):
            self._nodes[given["as_tensor"]["name"]] = self._input(*_only(spec))
        for node in graph["nodes"]:
            if node["target"] not in ASSERTIONS:
                self._call(node)
        (output,) = graph["outputs"]
        self._graph.output(self._nodes[output["as_tensor"]["name"]])
        module = fx.GraphModule(self._root, self._graph)
        for path in self._passing:
            # torch.fx copies all buffers as persistent ones.
            parent, _, name = path.rpartition(".")
            owner = module.get_submodule(parent)
            value = module.get_buffer(path)
            delattr(owner, name)
            owner.register_buffer(name, value, persistent=False)
        return module

    def _input(self, kind: str, spec: Any) -> fx.Node:
        if kind == "user_input":
            images = self._graph.placeholder("images")
            # The classifier made them, and needs them no more.
            self._own.add(images)
            return images
        tensors = self._records.constants
        if kind in ("parameter", "buffer") and spec.get("persistent", True):
            tensors = self._records.weights
        names = {
            "parameter": "parameter_name",
            "buffer": "buffer_name",
            "tensor_constant": "tensor_constant_name",
        }
        path = spec[names[kind]]
        parent = self._parent(path)
        name = path.rpartition(".")[2]
        if kind == "parameter":
            parent.register_parameter(name, nn.Parameter(tensors[path], requires_grad=False))
        else:
            parent.register_buffer(name, tensors[path])
        if tensors is self._records.constants:
            self._passing.append(path)
        return self._graph.get_attr(path)

    def _parent(self, path: str) -> nn.Module:
        # torch.fx writes names of tensors into source code.
        if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", path):
            raise ValueError(f"{path[:80]!r} is no name of a tensor")
        parent = self._root
        for name in path.split(".")[:-1]:
            if name not in parent._modules:
                parent.add_module(name, nn.Module())
            parent = parent.get_submodule(name)
        return parent

    def _call(self, node: Any) -> None:
        target = node["target"]
        if target in SIZE_FUNCTIONS:
            values = [self._value(given["arg"]) for given in node["inputs"]]
            self._size(SIZE_FUNCTIONS[target], values, node["outputs"])
            return
        function = find_operator(target)
        if function is None:
            raise InputError(
                f"{self._blamed} calls {str(target)[:80]!r}; only listed operators of ATen, pure "
                f"functions of tensors, are run. {EXPORT_ANEW}, by a network without others."
            )
        arguments = {given["name"]: self._value(given["arg"]) for given in node["inputs"]}
        positional, named = _bound(function, arguments)
        called = self._graph.create_node(
            "call_function", function, tuple(positional), named, node.get("name") or None
        )
        called.meta["nn_module_stack"] = _module_stack(node.get("metadata", {}))
        for position in written_arguments(function):
            if positional[position] not in self._own:
                raise InputError(
                    f"{self._blamed} writes into its weights ({target}), as a network in training "
                    "mode does; call network.eval() before exporting, and compute out of place."
                )
        if makes_memory(function) or all(source in self._own for source in called.all_input_nodes):
            self._own.add(called)
        self._name_outputs(called, node["outputs"])

    def _size(self, function: Callable[..., Any], values: list[Any], outputs: Any) -> None:
        """Add a function of sizes, which never get more digits than can be computed."""
        growing = function in (operator.sub, operator.floordiv)
        if growing and (type(values[1]) is not int or values[1] < 1):
            raise ValueError("a size is taken from a size")
        called = self._graph.call_function(function, tuple(values))
        bits = [
            self._size_bits.get(value, _SIZE_BITS)
            if isinstance(value, fx.Node)
            else value.bit_length()
            for value in values
        ]
        self._size_bits[called] = sum(bits) if function is operator.mul else max(bits) + 1
        if self._size_bits[called] > _MOST_SIZE_BITS:
            raise ValueError("a size is a product of too many")
        ((_, name),) = (_only(_only(output)[1]) for output in outputs)
        self._nodes[name] = called

    def _name_outputs(self, called: fx.Node, outputs: Any) -> None:
        if len(outputs) == 1 and "as_tensor" in outputs[0]:
            self._nodes[outputs[0]["as_tensor"]["name"]] = called
            return
        if len(outputs) == 1 and "as_tensors" in outputs[0]:
            named = list(outputs[0]["as_tensors"])
        else:
            named = [output.get("as_tensor") for output in outputs]
        for position, tensor in enumerate(named):
            if tensor is None:
                continue
            item = self._graph.call_function(operator.getitem, (called, position))
            item.meta["nn_module_stack"] = called.meta["nn_module_stack"]
            if called in self._own:
                self._own.add(item)
            self._nodes[tensor["name"]] = item

    def _value(self, argument: Any) -> Any:
        kind, value = _only(argument)
        if kind in ("as_tensors", "as_optional_tensors"):
            tensors = (entry if kind == "as_tensors" else _only(entry)[1] for entry in value)
            return [self._nodes[t["name"]] if isinstance(t, dict) else None for t in tensors]
        if kind == "as_sym_ints":
            return [self._size_value(entry) for entry in value]
        if kind in ("as_ints", "as_floats", "as_bools"):
            return [_PLAIN[kind.removesuffix("s")](entry) for entry in value]
        if kind == "as_tensor":
            return self._nodes[value["name"]]
        if kind == "as_sym_int":
            return self._size_value(value)
        if kind not in _PLAIN:
            raise InputError(f"{self._blamed} gives an operator {str(kind)[:40]!r}, not a tensor.")
        return _PLAIN[kind](value)

    def _size_value(self, entry: Any) -> Any:
        kind, value = _only(entry)
        return self._nodes[value] if kind == "as_name" else _integer(value)


def _integer(value: Any) -> int:
    if type(value) is not int or abs(value) >= 2**63:
        raise ValueError(f"{str(value)[:40]} is no integer of 64 bits")
    return value


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{str(value)[:40]} is neither true nor false")
    return value


def _layout(value: Any) -> torch.layout:
    if value != _STRIDED:
        raise ValueError(f"layout {str(value)[:40]}")
    return torch.strided


_PLAIN: dict[str, Callable[[Any], Any]] = {
    "as_none": lambda value: None,
    "as_int": _integer,
    "as_float": float,
    "as_bool": _boolean,
    "as_string": str,
    "as_scalar_type": DTYPES.__getitem__,
    "as_memory_format": _MEMORY_FORMATS.__getitem__,
    "as_layout": _layout,
    # It goes where the network goes.
    "as_device": lambda value: torch.device("cpu"),
}


def _only(entry: Any) -> tuple[str, Any]:
    ((kind, value),) = entry.items()
    return kind, value


def _bound(function: Any, arguments: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return arguments by position as far as they come without a gap, and the others by name."""
    positional: list[Any] = []
    for expected in function._schema.arguments:
        # Devices by name, so that they can be changed.
        if expected.kwarg_only or expected.name == "device" or expected.name not in arguments:
            break
        positional.append(arguments.pop(expected.name))
    known = {expected.name for expected in function._schema.arguments}
    if not arguments.keys() <= known:
        raise ValueError(f"{function} has no {', '.join(sorted(arguments.keys() - known))[:80]}")
    return positional, arguments


def _module_stack(metadata: Any) -> dict[str, tuple[str, str]]:
    """Return the modules that a node lies in, as torch.fx keeps them: key to path and class."""
    stack = {}
    for entry in str(metadata.get("nn_module_stack") or "").split(";"):
        key, _, rest = entry.partition(",")
        path, _, kind = rest.partition(",")
        stack[key] = path, kind
    return stack


def _image_value(described: Any, blamed: str) -> Any:
    """Return the description of the images, the only input that is not stored."""
    graph, signature = described["graph"], described["signature"]
    kinds = [_only(spec) for spec in signature["input_specs"]]
    given = [spec["arg"]["as_tensor"]["name"] for kind, spec in kinds if kind == "user_input"]
    outputs = [_only(spec)[0] for spec in signature["output_specs"]]
    value = graph["tensor_values"].get(given[0]) if len(given) == 1 else None
    if value is None or len(value["sizes"]) != 4 or outputs != ["user_output"]:
        raise InputError(
            f"{blamed} has {len(given)} inputs and {len(outputs)} outputs; it must take one batch "
            "of images [batch, channels, height, width], return logits [batch, classes] and "
            "change nothing else."
        )
    return value


def _image_shape(value: Any, blamed: str) -> tuple[ImageShape, Sequence[int]]:
    """Return channels, height and width, None where any are taken; and those that were traced."""
    batch, *sizes = (_only(size) for size in value["sizes"])
    if batch[0] == "as_int":
        raise InputError(
            f"{blamed} was exported for batches of exactly {_integer(batch[1])}; export it for "
            f"any, with {_DYNAMIC} and an example of 2 images or more."
        )
    channels, height, width = (_integer(size) if kind == "as_int" else None for kind, size in sizes)
    traced = [
        _integer(size if kind == "as_int" else size["hint"]["as_int"]) for kind, size in sizes
    ]
    return (channels, height, width), traced


def _check_sizes(
    module: fx.GraphModule, images: int, shape: Sequence[int], dtype: torch.dtype, blamed: str
) -> None:
    """Run a program on tensors without memory, and refuse it where results would be too large."""
    tensors = {
        name: tensor.to("meta")
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }
    batch = torch.empty((images, *shape), dtype=dtype, device="meta")
    try:
        with torch.no_grad(), _Sizes(images):
            functional_call(module, tensors, (batch,))
    except _TooLargeError as error:
        raise InputError(
            f"{blamed} makes {error} of {counted(images, 'image')}, which is too large."
        ) from None
    except Exception as error:  # any operator may refuse
        raise InputError(
            f"{blamed} does not run on images {list(batch.shape)} ({_first_line(error)}); "
            f"{EXPORT_ANEW}."
        ) from None


class _TooLargeError(Exception):
    """Says what is too large."""


class _Sizes(TorchDispatchMode):
    """Keeps results on the meta device, and stops where they are too large for so many images."""

    def __init__(self, images: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._images = images
        self._total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        arguments = func._schema.arguments
        if any(argument.name == "device" for argument in arguments):
            kwargs["device"] = torch.device("meta")
        if func._schema.name in ("aten::unbind", "aten::split"):
            names = (argument.name for argument in arguments)
            self._check_pieces(dict(zip(names, args, strict=False)) | kwargs)
        result = func(*args, **kwargs)
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._check(tensor, new=makes_memory(func))
        return result

    def _check_pieces(self, given: dict[str, Any]) -> None:
        whole, size = given["self"], given.get("split_size", 1)
        if whole.shape[given.get("dim", 0)] > _MOST_PIECES * max(1, size):
            raise _TooLargeError(f"more than {_MOST_PIECES:,} parts of a tensor")

    def _check(self, tensor: Tensor, *, new: bool) -> None:
        stored = tensor.untyped_storage().nbytes()
        # A kernel may write out what is expanded.
        written = math.prod(tensor.shape) * tensor.element_size()
        if max(stored, written // _EXPANDED) > _MOST_BYTES_AN_IMAGE * self._images:
            raise _TooLargeError(f"a tensor {list(tensor.shape)}")
        self._total += stored if new else 0
        if self._total > _MOST_BYTES_IN_ALL * self._images:
            raise _TooLargeError(f"tensors of {self._total:,} bytes in all")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:200]
