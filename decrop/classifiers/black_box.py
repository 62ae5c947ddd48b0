"""A classifier of which only predictions are known."""

from typing import Protocol

from torch import Tensor


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
