"""Feature maps in the middle of a classifier, whatever its architecture."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor, nn

from decrop.classifiers.classifier import Classifier
from decrop.errors import InputError
from decrop.smoothing.prepare import copied

# Fewer may be a whole backbone and the pooling behind it.
_ENOUGH_SIZES = 3


@dataclass(frozen=True)
class Outputs:
    """What a classifier makes of B images.

    Attributes:
        logits: [B, K].
        features: L2-normalised penultimate features, [B, F].
        maps: of each stage, [B, channels, height, width].
    """

    logits: Tensor
    features: Tensor
    maps: tuple[Tensor, ...] = ()

    def each(self, change: Callable[[Tensor], Tensor]) -> "Outputs":
        """Return them with every tensor changed."""
        return Outputs(change(self.logits), change(self.features), tuple(map(change, self.maps)))

    def of_rows(self, rows: slice | Tensor) -> "Outputs":
        """Return those of some of the images."""
        return self.each(lambda values: values[rows])

    def split(self, sizes: Sequence[int]) -> list["Outputs"]:
        """Part them into those of so many images each."""
        ends = accumulate(sizes)
        return [self.of_rows(slice(end - size, end)) for size, end in zip(sizes, ends, strict=True)]


class StagedClassifier(nn.Module):
    """A copy of a classifier that also returns the outputs of some of its modules.

    The copy has hooks that stay, for threads may share it: each thread sees its own maps. Like the
    classifier it is frozen and always in eval mode.
    """

    # So that the classifier can be folded by itself.
    calls_children_whole = True

    def __init__(self, classifier: Classifier, stages: Sequence[str]) -> None:
        """Copy a classifier.

        Args:
            stages: names of modules of its network, each called once in a forward pass.
        """
        super().__init__()
        self.stages = tuple(stages)
        self.classifier = copied(classifier)
        self._maps: _Maps = {}
        modules = dict(self.classifier.network.named_modules())
        for stage in self.stages:
            if not stage or stage not in modules:
                raise InputError(
                    f"stages: {classifier.architecture} has no module {stage!r}; it has "
                    f"{', '.join(name for name, _ in self.classifier.network.named_children())} "
                    "and what is inside them."
                )
            modules[stage].register_forward_hook(_Keep(self._maps, stage))

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits [B, K], and the map [B, channels, height, width] of each stage."""
        with self._keeping() as maps:
            logits: Tensor = self.classifier(images)
        return logits, [maps[stage] for stage in self.stages]

    def outputs(self, images: Tensor) -> Outputs:
        """Return logits, L2-normalised penultimate features, and the maps."""
        with self._keeping() as maps:
            logits, features = self.classifier.logits_and_features(images)
        return Outputs(logits, features, tuple(maps[stage] for stage in self.stages))

    @contextmanager
    def _keeping(self) -> Iterator[dict[str, Tensor]]:
        thread = threading.get_ident()
        maps = self._maps[thread] = {}
        try:
            yield maps
        finally:
            del self._maps[thread]

    def channels(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Return the channels of each stage's map for images [C, H, W]."""
        outputs = _outputs(self.classifier, image_shape)
        for stage in self.stages:
            if outputs.get(stage) is None:
                raise InputError(
                    f"stages: {stage} gives no [batch, channels, height, width] exactly once in a "
                    f"forward pass; such modules are {', '.join(outputs) or 'none'}."
                )
        return tuple(outputs[stage][0] for stage in self.stages)

    def extra_repr(self) -> str:
        """Name the stages, which decide what this computes."""
        return f"stages={self.stages}"


def find_stages(
    classifier: Classifier, image_shape: tuple[int, int, int], *, most: int
) -> tuple[str, ...]:
    """Name the modules of a classifier's network after which the spatial size of its maps changes.

    Modules are looked at from the outside in: the outermost level at which the size changes twice
    or more is taken, else that at which it changes most often, and there the last module of each
    size, in order of execution. Maps of one pixel count only where nothing else is there, and
    modules that are called several times, or return something else than one tensor [B, channels,
    height, width], do not count.

    Args:
        image_shape: C, H, W.
        most: the last so many are returned.

    Returns:
        names in order of execution; empty where no module has maps.
    """
    outputs = _outputs(classifier, image_shape)
    spatial = {name: shape for name, shape in outputs.items() if shape[1] * shape[2] > 1}
    outputs = spatial or outputs
    found: list[str] = []
    for depth in range(1, 1 + max((_depth(name) for name in outputs), default=0)):
        stages = _last_of_each_size(_level(classifier.network, outputs, depth))
        found = max(found, stages, key=len)
        if len(found) >= _ENOUGH_SIZES:
            break
    return tuple(found[-most:])


_Maps = dict[int, dict[str, Tensor]]


class _Keep:
    """A hook that keeps a module's output for the thread that asked for it.

    An object rather than a function, so that a copy of the network has hooks with maps of its own.
    """

    def __init__(self, maps: _Maps, stage: str) -> None:
        self._maps = maps
        self._stage = stage

    def __call__(self, module: nn.Module, arguments: Any, output: Tensor) -> None:
        maps = self._maps.get(threading.get_ident())
        if maps is not None:
            maps[self._stage] = output


@torch.no_grad()
def _outputs(
    classifier: Classifier, image_shape: tuple[int, int, int]
) -> dict[str, tuple[int, int, int]]:
    """Return channels, height and width of modules that give one map, in order of completion."""
    shapes: dict[str, tuple[int, int, int]] = {}
    calls: Counter[str] = Counter()

    def note(name: str, module: nn.Module, arguments: Any, output: Any) -> None:
        calls[name] += 1
        if isinstance(output, Tensor) and output.ndim == 4:
            channels, height, width = output.shape[1:]
            shapes[name] = (channels, height, width)

    handles = [
        module.register_forward_hook(partial(note, name))
        for name, module in classifier.network.named_modules()
        if name
    ]
    try:
        classifier(torch.zeros(1, *image_shape, device=classifier.mean.device))
    finally:
        for handle in handles:
            handle.remove()
    return {name: shape for name, shape in shapes.items() if calls[name] == 1}


def _depth(name: str) -> int:
    return name.count(".") + 1


def _level(
    network: nn.Module, outputs: dict[str, tuple[int, int, int]], depth: int
) -> dict[str, tuple[int, int, int]]:
    """Return the modules at a depth, and those above it that have none inside."""
    modules = dict(network.named_modules())
    return {
        name: shape
        for name, shape in outputs.items()
        if _depth(name) == depth or (_depth(name) < depth and not any(modules[name].children()))
    }


def _last_of_each_size(outputs: dict[str, tuple[int, int, int]]) -> list[str]:
    sizes = groupby(outputs, key=lambda name: outputs[name][1:])
    return [list(names)[-1] for _, names in sizes]
