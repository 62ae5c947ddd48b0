"""DRUNet (Zhang et al. 2021) at its published size."""

import torch
from torch import Tensor, nn

from decrop.config import DenoiserSettings
from decrop.networks.conditional import SigmaConditional

_CHANNELS = (64, 128, 256, 512)
_BLOCKS = 4


class DRUNet(SigmaConditional):
    """A U-Net of residual blocks, told the standard deviation of the noise; 32.6 million weights.

    Four resolutions of four blocks each; strided convolutions lead down, transposed ones up, and
    maps of the same resolution are added. No BatchNorm, no biases. A map that holds the standard
    deviation joins the image, and the output is the denoised image. Input and output are
    [B, C, H, W] in [0,1] pixels plus noise, of any size. Weights are named as the authors' are,
    which load as they are.

    Zhang et al., Plug-and-Play Image Restoration with Deep Denoiser Prior, TPAMI 2021, section 4.1.
    """

    # The scale of the lowest resolution.
    size_multiple = 8

    def __init__(self, *, image_channels: int) -> None:
        super().__init__()
        first, second, third, fourth = _CHANNELS
        self.m_head = nn.Conv2d(image_channels + 1, first, 3, padding=1, bias=False)
        self.m_down1 = _down(first, second)
        self.m_down2 = _down(second, third)
        self.m_down3 = _down(third, fourth)
        self.m_body = nn.Sequential(*(_ResidualBlock(fourth) for _ in range(_BLOCKS)))
        self.m_up3 = _up(fourth, third)
        self.m_up2 = _up(third, second)
        self.m_up1 = _up(second, first)
        self.m_tail = nn.Conv2d(first, image_channels, 3, padding=1, bias=False)

    def denoised(self, images: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.to(images.dtype)[:, None, None, None].expand(-1, 1, *images.shape[-2:])
        full = self.m_head(torch.cat((images, level), dim=1))
        half = self.m_down1(full)
        quarter = self.m_down2(half)
        eighth = self.m_down3(quarter)
        found = self.m_up3(self.m_body(eighth) + eighth)
        found = self.m_up1(self.m_up2(found + quarter) + half)
        denoised: Tensor = self.m_tail(found + full)
        return denoised


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.res = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )

    def forward(self, maps: Tensor) -> Tensor:
        residual: Tensor = self.res(maps)
        return maps + residual


def _down(channels_in: int, channels_out: int) -> nn.Sequential:
    blocks = (_ResidualBlock(channels_in) for _ in range(_BLOCKS))
    return nn.Sequential(*blocks, nn.Conv2d(channels_in, channels_out, 2, stride=2, bias=False))


def _up(channels_in: int, channels_out: int) -> nn.Sequential:
    blocks = (_ResidualBlock(channels_out) for _ in range(_BLOCKS))
    upsampling = nn.ConvTranspose2d(channels_in, channels_out, 2, stride=2, bias=False)
    return nn.Sequential(upsampling, *blocks)


def drunet(settings: DenoiserSettings, image_channels: int) -> DRUNet:
    """Build it; depth and channels are the published ones."""
    return DRUNet(image_channels=image_channels)
