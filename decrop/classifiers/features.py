"""Penultimate features of a network: the input of one of its layers, read by hooks."""

from typing import Any, Self

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from decrop.classifiers.program import ExportedNetwork, FeatureInput, unknown_layer
from decrop.errors import InputError


class FeatureReader:
    """Reads features from whatever a network computes while this context is open.

    The features are the input of the layer that the user names, or else of the linear layer or
    convolution that runs last. Features at several positions are averaged over them: the last
    dimension of a linear layer's input and of [B, T, F] is the features', the second of
    [B, F, H, W].
    """

    def __init__(self, network: nn.Module, feature_layer: str | None) -> None:
        """Find the layers that may be read."""
        self._named = feature_layer
        self._layers = _layers(network, feature_layer)
        self._handles: list[RemovableHandle] = []
        self._read: tuple[str, nn.Module, Tensor] | None = None

    def __enter__(self) -> Self:
        for name, layer in self._layers.items():

            def hook(
                module: nn.Module, given: Any, keywords: dict[str, Any], name: str = name
            ) -> None:
                inputs = [v for v in (*given, *keywords.values()) if isinstance(v, Tensor)]
                if inputs:
                    self._read = name, module, inputs[0]

            self._handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def layer(self) -> str:
        """Return the name of the layer that was read."""
        return self._found()[0]

    def features(self) -> Tensor:
        """Return the features [B, F]."""
        name, layer, found = self._found()
        if found.ndim == 2:
            return found
        if found.ndim == 3 or (found.ndim == 4 and _is_linear(layer)):
            return found.flatten(1, -2).mean(1)
        if found.ndim == 4:
            return found.mean((2, 3))
        raise InputError(
            f"classifier.feature_layer: the input of {name} is {list(found.shape)}; features are "
            "[batch, features], with positions in one or two further dimensions."
        )

    def _found(self) -> tuple[str, nn.Module, Tensor]:
        if self._read is not None:
            return self._read
        if self._named is not None:
            raise InputError(
                f"classifier.feature_layer: {self._named} does not run on images, or is not called "
                "as a module; name another one."
            )
        raise InputError(
            "classifier.feature_layer: no linear layer or convolution runs in the network; name "
            "the module whose input is the features."
        )


def _layers(network: nn.Module, feature_layer: str | None) -> dict[str, nn.Module]:
    if isinstance(network, ExportedNetwork):
        return {network.feature_layer: network.feature_input}
    modules = {name: module for name, module in network.named_modules() if name}
    if feature_layer is None:
        return {
            name: module
            for name, module in (modules or {type(network).__name__: network}).items()
            if isinstance(module, nn.Linear | nn.Conv2d)
        }
    if feature_layer not in modules:
        raise unknown_layer(feature_layer, list(modules))
    return {feature_layer: modules[feature_layer]}


def _is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, FeatureInput) and layer.of_linear)
