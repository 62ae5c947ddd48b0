"""A classifier of which only predictions are known."""

from typing import Protocol

from torch import Tensor, nn


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


class BlackBoxNetwork(nn.Module):
    """A black box as a network that can be certified; it never was trained, nor will be."""

    class_count: int

    def forward(self, images: Tensor) -> Tensor:
        """Return log-probabilities [B, K] of images [B, C, H, W], which may leave [0,1]."""
        raise NotImplementedError

    def probabilities(self, images: Tensor) -> Tensor:
        """Answer as `BlackBox` says."""
        raise NotImplementedError

    def content_hash(self) -> str:
        """Hash as `BlackBox` says."""
        raise NotImplementedError
