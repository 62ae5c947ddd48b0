"""MemNet (Tai et al. 2017) as denoised smoothing and DE-CROP use it."""

import torch
from torch import Tensor, nn

from decrop.config import DenoiserSettings

_MEMORY_BLOCKS = 3
_RESIDUAL_UNITS = 6


class MemNet(nn.Module):
    """A denoiser that predicts the correction: x + network(x).

    Feature extraction, 3 memory blocks of 6 residual units, and reconstruction; every convolution
    follows BatchNorm and ReLU and has no bias. A gate joins the outputs of a block's units with
    those of the feature extraction and of all earlier blocks. The last layer starts at zero, so
    that an untrained denoiser is the identity; that of the published code starts at random, as
    PyTorch's convolutions do. Input and output are [B, C, H, W] in [0,1] pixels
    plus noise.

    Tai et al., MemNet: A Persistent Memory Network for Image Restoration, ICCV 2017, section 3;
    sizes as Salman et al., Denoised Smoothing, NeurIPS 2020, published them.
    """

    def __init__(self, *, image_channels: int, channels: int) -> None:
        super().__init__()
        self.feature_extraction = _activated_convolution(image_channels, channels, 3)
        self.memory_blocks = nn.ModuleList(
            _MemoryBlock(channels, earlier_outputs=1 + block) for block in range(_MEMORY_BLOCKS)
        )
        self.reconstruction = _activated_convolution(channels, image_channels, 3)
        last = self.reconstruction[-1]
        assert isinstance(last, nn.Conv2d)
        nn.init.zeros_(last.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Return the denoised images, of the input's shape."""
        outputs = [self.feature_extraction(images)]
        for block in self.memory_blocks:
            outputs.append(block(outputs))
        denoised: Tensor = images + self.reconstruction(outputs[-1])
        return denoised


class _MemoryBlock(nn.Module):
    def __init__(self, channels: int, *, earlier_outputs: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            nn.Sequential(
                _activated_convolution(channels, channels, 3),
                _activated_convolution(channels, channels, 3),
            )
            for _ in range(_RESIDUAL_UNITS)
        )
        gated = (_RESIDUAL_UNITS + earlier_outputs) * channels
        self.gate = _activated_convolution(gated, channels, 1)

    def forward(self, earlier: list[Tensor]) -> Tensor:
        maps = earlier[-1]
        recent = []
        for unit in self.units:
            maps = maps + unit(maps)
            recent.append(maps)
        gated: Tensor = self.gate(torch.cat([*recent, *earlier], dim=1))
        return gated


def _activated_convolution(channels_in: int, channels_out: int, size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(channels_in),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels_in, channels_out, size, padding=size // 2, bias=False),
    )


def memnet(settings: DenoiserSettings, image_channels: int) -> MemNet:
    """Build it of the settings."""
    return MemNet(image_channels=image_channels, channels=settings.channels)
