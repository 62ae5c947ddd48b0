"""Denoisers that are told the standard deviation of the noise."""

from abc import abstractmethod

import torch
from torch import Tensor, nn


class SigmaConditional(nn.Module):
    """A denoiser of images and the standard deviation of their noise.

    In front of a classifier it is called with images alone, and takes `sigma` for all of them; in
    training it can be told another one for each image.

    Attributes:
        sigma: standard deviation of the noise, in [0,1] pixels, where none is given.
    """

    sigma: float = 0.25

    def forward(self, images: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Return denoised images.

        Args:
            images: noisy, [B, C, H, W] in [0,1] pixels plus noise.
            sigma: [B], of the noise of each image, in [0,1] pixels; `sigma` of all if None.
        """
        if sigma is None:
            # In fp32 whatever the precision of images, which would round it.
            sigma = torch.full((images.shape[0],), self.sigma, device=images.device)
        return self.denoised(images, sigma)

    @abstractmethod
    def denoised(self, images: Tensor, sigma: Tensor) -> Tensor:
        """Return denoised images [B, C, H, W], of noise whose standard deviations are [B]."""


def told_sigma(network: nn.Module, sigma: float) -> nn.Module:
    """Tell all denoisers in a network that can be told; return the network."""
    for module in network.modules():
        if isinstance(module, SigmaConditional):
            module.sigma = sigma
    return network
