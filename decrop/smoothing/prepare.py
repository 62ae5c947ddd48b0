"""Networks as certification runs them: copied, folded, in their precision and memory layout."""

import copy
import warnings
from collections import Counter
from collections.abc import Callable
from itertools import product
from typing import TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from decrop.config import ExecutionSettings
from decrop.errors import InputError, one_line
from decrop.seeds import torch_generator
from decrop.smoothing.execution import (
    Layout,
    Precision,
    autocast,
    resolve_certified_precision,
    resolve_device,
    resolve_layout,
    resolve_precision,
)

Network = TypeVar("Network", bound=nn.Module)


def fold_batch_norms(network: nn.Module) -> None:
    """Fold every BatchNorm2d that follows a Conv2d into it, in place; `network` is in eval mode.

    torch.fx finds the pairs: a BatchNorm2d with running statistics that alone uses the output of a
    Conv2d, where each of the two is called exactly once, neither is a subclass or has hooks, and
    nothing else reads the convolution's parameters. The convolution takes both roles and an
    identity the place of the BatchNorm; `forward` stays the network's own. A network that torch.fx
    cannot trace is left as it is, except an nn.Sequential, or a network whose
    `calls_children_whole` is true, as it reaches into no child: those are folded one by one.
    """
    try:
        graph = fx.Tracer().trace(network)
    except Exception:  # tracing runs the network's own code, which may raise anything
        if type(network) is nn.Sequential or getattr(network, "calls_children_whole", False):
            for child in network.children():
                fold_batch_norms(child)
        return
    for convolution, norm in _foldable_pairs(network, graph):
        _replace(network, convolution, fuse_conv_bn_eval(convolution, norm))
        _replace(network, norm, nn.Identity())


def folded(network: Network) -> Network:
    """Return a copy of a network in eval mode with its BatchNorms folded (`fold_batch_norms`)."""
    ready = copied(network).eval()
    fold_batch_norms(ready)
    return ready


def _foldable_pairs(network: nn.Module, graph: fx.Graph) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    modules = dict(network.named_modules())
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    read_from = {
        str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"
    }

    def called_once(node: fx.Node) -> nn.Module | None:
        name = str(node.target)
        if node.op != "call_module" or calls[name] != 1 or name in read_from:
            return None
        module = modules[name]
        return None if module._forward_hooks or module._forward_pre_hooks else module

    pairs = []
    for node in graph.nodes:
        norm = called_once(node)
        if type(norm) is not nn.BatchNorm2d or norm.running_mean is None:
            continue
        source = node.all_input_nodes[0]
        convolution = called_once(source)
        if type(convolution) is nn.Conv2d and len(source.users) == 1:
            pairs.append((convolution, norm))
    return pairs


def _replace(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    # A module can be registered in several places.
    for parent in network.modules():
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_FORMATS: dict[Layout, torch.memory_format] = {
    "channels_last": torch.channels_last,
    "contiguous": torch.contiguous_format,
}
# Of the largest logit: rounding reaches some percent in bf16.
_TOLERANCES: dict[Precision, float] = {"fp32": 1e-3, "bf16": 0.25, "fp16": 0.05}
_REMEDY = (
    "let it take images of any memory layout (reshape, not view), keep its tensors in parameters "
    "and buffers, leave the dtype of images as it is, and compute with gradients"
)


def prepared(
    network: nn.Module, precision: Precision, layout: Layout, device: torch.device
) -> nn.Module:
    """Return a copy of a network: eval mode, BatchNorm folded, on a device."""
    network = copied(network).eval()
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            raise InputError(
                f"{name} normalises by the batch, so that samples would not be independent; "
                "certify a network with running statistics."
            )
    fold_batch_norms(network)
    network.to(device=device, dtype=_DTYPES[precision])
    network.to(memory_format=_FORMATS[layout])  # type: ignore[call-overload]
    return network


def as_given(images: Tensor, precision: Precision, layout: Layout) -> Tensor:
    """Return images [B, C, H, W] as a prepared network takes them."""
    return images.to(_DTYPES[precision], memory_format=_FORMATS[layout])


def fitting_execution(
    execution: ExecutionSettings,
    network: nn.Module,
    image_shape: tuple[int, ...],
    *,
    trained_through: bool = False,
) -> ExecutionSettings:
    """Try out a network as it will be used, and set what it needs where the settings say auto.

    Certification runs a prepared copy: its logits, for one image and for several, must be those of
    the network itself. Where a precision or a memory layout is auto and a network fails in the
    preferred one, it is run in another, which the settings then say. Classifiers in it are told the
    layout, for they also run behind a denoiser that is being trained.

    Args:
        network: images [B, C, H, W] to logits [B, K].
        image_shape: C, H, W.
        trained_through: whether gradients must reach its images.
    """
    device = resolve_device(execution.device)
    images = torch.rand((3, *image_shape), generator=torch_generator(0, "trial images"))
    layouts: tuple[Layout, ...] = ("channels_last", "contiguous")
    if execution.layout != "auto":
        layouts = (execution.layout,)
    trials: list[tuple[str, Callable[[Precision, Layout], None]]] = [
        ("precision", lambda precision, layout: _check(network, images, precision, layout, device))
    ]
    if trained_through:

        def check_training(precision: Precision, layout: Layout) -> None:
            gradients = _gradients(network, images, precision, layout, device)
            if not all(part.isfinite().all() and part.any() for part in gradients):
                raise ValueError("the gradients of its images are zero or not finite")

        trials.append(("training_precision", check_training))
    for name, check in trials:
        setting = getattr(execution, name)
        resolve = resolve_certified_precision if name == "precision" else resolve_precision
        preferred = resolve(setting, device)
        precisions: list[Precision] = [preferred]
        if setting == "auto" and preferred != "fp32":
            precisions.append("fp32")
        precision, layout = _first_fitting(check, precisions, layouts)
        changes: dict[str, str] = {}
        if precision != preferred:
            changes[name] = precision
        if layout != resolve_layout(execution.layout):
            changes["layout"] = layout
            layouts = (layout,)
        if changes:
            said = ", ".join(f"execution.{key}={value}" for key, value in changes.items())
            warnings.warn(f"the network is run with {said}, for it fails without.", stacklevel=2)
            execution = execution.model_copy(update=changes)
    for module in network.modules():
        if "takes_contiguous" in vars(module):
            vars(module)["takes_contiguous"] = execution.layout == "contiguous"
    return execution


def _first_fitting(
    check: Callable[[Precision, Layout], object],
    precisions: list[Precision],
    layouts: tuple[Layout, ...],
) -> tuple[Precision, Layout]:
    reason = ""
    for precision, layout in product(precisions, layouts):
        try:
            check(precision, layout)
        except InputError:
            raise
        except Exception as error:  # a network of somebody else's may raise anything
            reason = f"in {precision}, {layout}: {type(error).__name__}: {error}"
        else:
            return precision, layout
    other = "" if "fp32" in precisions else "run it in fp32, or "
    raise InputError(
        f"the network does not work as it would be used ({one_line(reason, 300)}); "
        f"{other}{_REMEDY}."
    )


def _check(
    network: nn.Module, images: Tensor, precision: Precision, layout: Layout, device: torch.device
) -> None:
    """Raise ValueError, or what the network raises, unless its prepared copy gives its logits."""
    with torch.inference_mode():
        given = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
        expected = copied(network).eval()(images.to(given)).to(device).double()
        ready = prepared(network, precision, layout, device)
        for part in (images, images[:1]):
            found = ready(as_given(part.to(device), precision, layout)).double()
            _compare(found, expected[: len(part)], _TOLERANCES[precision])


def _compare(found: Tensor, expected: Tensor, tolerance: float) -> None:
    if found.shape != expected.shape:
        raise ValueError(
            f"it gives {list(found.shape)} for images of which it gives {list(expected.shape)} "
            "beside others"
        )
    difference = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
    # Not larger than, which NaN is not.
    if not difference <= tolerance:
        raise ValueError(f"its logits differ by {difference:.2g} of the largest")


def _gradients(
    network: nn.Module, images: Tensor, precision: Precision, layout: Layout, device: torch.device
) -> list[Tensor]:
    """Return the gradients of several images, and of one."""
    ready = copied(network).eval().to(device)
    gradients: list[Tensor] = []
    for part in (images, images[:1]):
        given = part.to(device).requires_grad_()
        with torch.enable_grad(), autocast(precision, device):
            # Not the leaf itself, for networks may write into what they are given.
            logits = ready(as_given(1 * given, "fp32", layout)).float()
        if not logits.requires_grad:
            raise ValueError(
                "no gradient reaches its images, as under torch.no_grad, so that nothing can be "
                "trained through it"
            )
        gradients += torch.autograd.grad(logits.square().sum(), given)
    return gradients


def copied(network: Network) -> Network:
    """Return a copy of a network, which may keep values that were computed with gradients."""
    for module in network.modules():
        for name, value in list(vars(module).items()):
            # Hooks may keep what was computed in training, whose graph cannot be copied.
            if isinstance(value, Tensor) and not value.is_leaf:
                vars(module)[name] = value.detach()
    return copy.deepcopy(network)
