"""The denoiser that every training starts from."""

import torch
from torch import nn

from decrop.config import DenoiserSettings
from decrop.networks.registry import build_denoiser
from decrop.seeds import seeded_globals


def initial_denoiser(
    settings: DenoiserSettings, *, image_channels: int, seed: int, device: torch.device
) -> nn.Module:
    """Build an untrained denoiser in channels_last layout; the same seed gives the same weights."""
    with seeded_globals(seed, "denoiser initialisation"):
        denoiser = build_denoiser(settings, image_channels=image_channels)
    # No overload of `to` in PyTorch's annotations takes a memory format.
    return denoiser.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
