"""Published weights of models of torchvision and timm, by their names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from decrop.errors import InputError, one_line


@dataclass(frozen=True)
class PublishedWeights:
    """Weights that a library downloads.

    Attributes:
        mean: channel means in [0,1] pixels that it was trained with.
        std: their standard deviations.
        fetch: returns the tensors by name, from the library's cache if they are there.
    """

    class_count: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fetch: Callable[[], Mapping[str, Tensor]]

    def download(self, weights: str) -> Mapping[str, Tensor]:
        """Return the tensors by name; `weights` is what they are called."""
        try:
            return self.fetch()
        except Exception as error:  # of the network, of several libraries
            reason = one_line(str(error), 300)
            raise InputError(
                f"classifier.weights: {weights} could not be downloaded ({type(error).__name__}: "
                f"{reason}); give a file of them (`decrop classifier convert` makes one of what "
                "was downloaded elsewhere)."
            ) from None


def published_weights(source: str, weights: str) -> PublishedWeights:
    """Find weights that are published under a name.

    Args:
        source: torchvision/NAME or timm/NAME, which must be there.
        weights: of torchvision a member of the model's weights, such as IMAGENET1K_V2; of timm the
            model's tag, such as a1_in1k.
    """
    package, _, name = source.partition("/")
    known = _PACKAGES[package](name)
    if weights not in known:
        raise InputError(
            f"classifier.weights: {weights} does not exist as a file, and {source} has no "
            f"published weights of that name{'; there are ' if known else ''}{', '.join(known)}."
        )
    return known[weights]()


def _of_torchvision(name: str) -> dict[str, Callable[[], PublishedWeights]]:
    # Slow to import.
    from decrop._torchvision import torchvision

    def found(member: Any) -> PublishedWeights:
        preset = member.transforms()
        # A pickle, of which only tensors are read.
        fetch = partial(member.get_state_dict, progress=False, check_hash=True, weights_only=True)
        classes = len(member.meta["categories"])
        return PublishedWeights(classes, tuple(preset.mean), tuple(preset.std), fetch)

    members = torchvision.models.get_model_weights(name).__members__
    return {weights: partial(found, member) for weights, member in members.items()}


def _of_timm(name: str) -> dict[str, Callable[[], PublishedWeights]]:
    import timm

    def found(tagged: str) -> PublishedWeights:
        published = timm.get_pretrained_cfg(tagged)
        return PublishedWeights(
            class_count=published.num_classes,
            mean=tuple(published.mean),
            std=tuple(published.std),
            fetch=partial(_from_hub, published.hf_hub_id),
        )

    model = name.partition(".")[0]
    tagged = [known.partition(".") for known in timm.list_pretrained()]
    return {tag: partial(found, f"{model}.{tag}") for known, _, tag in tagged if known == model}


_PACKAGES = {"torchvision": _of_torchvision, "timm": _of_timm}


def _from_hub(name: str) -> Mapping[str, Tensor]:
    from huggingface_hub import hf_hub_download

    return load_file(hf_hub_download(name, "model.safetensors"))
