"""Denoisers that are told the standard deviation of the noise."""

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SigmaConditional(nn.Module):
    """A denoiser of images and the standard deviation of their noise.

    In front of a classifier it is called with images alone, and takes `sigma` for all of them; in
    training it can be told another one for each image.

    Attributes:
        sigma: standard deviation of the noise, in [0,1] pixels, where none is given.
        size_multiple: of height and width that `denoised` takes; images of other sizes are padded
            by their last row and column, and what is returned is cut.
    """

    sigma: float = 0.25
    size_multiple: int = 1

    def forward(self, images: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Return denoised images.

        Args:
            images: noisy, [B, C, H, W] in [0,1] pixels plus noise.
            sigma: [B], of the noise of each image, in [0,1] pixels; `sigma` of all if None.
        """
        if sigma is None:
            # In fp32 whatever the precision of images, which would round it.
            sigma = torch.full((images.shape[0],), self.sigma, device=images.device)
        height, width = images.shape[-2:]
        if self.size_multiple > 1:
            padding = (0, -width % self.size_multiple, 0, -height % self.size_multiple)
            images = F.pad(images, padding, mode="replicate")
        return self.denoised(images, sigma)[..., :height, :width]

    @abstractmethod
    def denoised(self, images: Tensor, sigma: Tensor) -> Tensor:
        """Return denoised images [B, C, H, W], of noise whose standard deviations are [B]."""


def told_sigma(network: nn.Module, sigma: float) -> nn.Module:
    """Tell all denoisers in a network that can be told; return the network."""
    for module in network.modules():
        if isinstance(module, SigmaConditional):
            module.sigma = sigma
    return network
