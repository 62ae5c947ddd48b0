"""FFDNet (Zhang et al. 2018) at its published sizes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decrop.config import DenoiserSettings
from decrop.networks.conditional import SigmaConditional

# Layers and channels, as published: for one channel, and for more.
_GREY, _COLOUR = (15, 64), (12, 96)


class FFDNet(SigmaConditional):
    """A denoiser on maps of half the resolution, told the standard deviation of the noise.

    The image becomes four times as many maps of half its height and width, one map more holds the
    standard deviation, and convolutions 3x3 with ReLU between them return the maps of the denoised
    image, not of the noise. Input and output are [B, C, H, W] in [0,1] pixels plus noise, of any
    size. Weights are named as the authors' are, which load as they are.

    Zhang, Zuo and Zhang, FFDNet: Toward a Fast and Flexible Solution for CNN-Based Image Denoising,
    IEEE Transactions on Image Processing 2018, section III.
    """

    size_multiple = 2

    def __init__(self, *, image_channels: int, depth: int, channels: int) -> None:
        super().__init__()
        maps = image_channels * self.size_multiple**2
        layers: list[nn.Module] = [nn.Conv2d(maps + 1, channels, 3, padding=1), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.Conv2d(channels, maps, 3, padding=1))

    def denoised(self, images: Tensor, sigma: Tensor) -> Tensor:
        maps = F.pixel_unshuffle(images, self.size_multiple)
        level = sigma.to(maps.dtype)[:, None, None, None].expand(-1, 1, *maps.shape[-2:])
        return F.pixel_shuffle(self.model(torch.cat((maps, level), dim=1)), self.size_multiple)


def ffdnet(settings: DenoiserSettings, image_channels: int) -> FFDNet:
    """Build it; depth and channels are the published ones."""
    depth, channels = _GREY if image_channels == 1 else _COLOUR
    return FFDNet(image_channels=image_channels, depth=depth, channels=channels)
