"""A black box, of which predictions alone are known, and the memory of its answers."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from decrop.cache import ContentCache, Tensors
from decrop.files import sha256_of_tensors


class BlackBox(Protocol):
    """Answers images with predictions; there are no gradients and no features."""

    class_count: int

    def probabilities(self, images: Tensor) -> Tensor:
        """Return float32 [B, K] of float32 images [B, C, H, W] in [0,1] pixels.

        One-hot where the classifier gives labels only.

        Raises:
            RunError: the classifier does not answer, or not what it should.
        """
        ...

    def content_hash(self) -> str:
        """Hash what determines the predictions, as far as it is known."""
        ...


# Changed when what is asked changes, so that old answers are not taken for new ones.
_VERSION = 1
ANSWERS = "answers"


def remembered(
    target: BlackBox,
    images: Tensor,
    memory: ContentCache,
    on_asked: Callable[[int], None] | None = None,
) -> Tensor:
    """Return what a black box answers, without asking about images that it has answered together.

    Args:
        images: [B, C, H, W], uint8, or float32 in [0,1] pixels.
        on_asked: called with a number of images, before they are asked about.

    Returns:
        probabilities, float32 [B, K], on the CPU.

    Raises:
        RunError: the black box does not answer.
    """

    def ask() -> Tensors:
        if on_asked is not None:
            on_asked(len(images))
        pixels = images if images.is_floating_point() else images.float() / 255
        return {"probabilities": target.probabilities(pixels)}

    determined_by = {
        "version": _VERSION,
        "target": target.content_hash(),
        "images": sha256_of_tensors({"images": images}),
    }
    return memory.get(ANSWERS, determined_by, ask)["probabilities"]
