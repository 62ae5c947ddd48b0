"""Convolution and BatchNorm joined into one convolution, for speed."""

from collections import Counter

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


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
