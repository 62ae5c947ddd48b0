"""Registered architectures: networks built by the names that settings give."""

from typing import Any

from torch import nn

from decrop.config import DenoiserSettings
from decrop.config.classifier_source import CLASSIFIERS
from decrop.config.denoiser import DENOISERS


def build_classifier_network(
    architecture: str, *, image_channels: int, class_count: int
) -> nn.Module:
    """Build an untrained classifier network: standardised images [B, C, H, W] -> logits [B, K]."""
    network: nn.Module = CLASSIFIERS.build(
        architecture, image_channels=image_channels, class_count=class_count
    )
    return network


def build_denoiser(settings: DenoiserSettings, *, image_channels: int) -> nn.Module:
    """Build an untrained denoiser: noisy images [B, C, H, W] -> images of the same shape."""
    network: nn.Module = DENOISERS.build(settings.source, settings, image_channels)
    return network


def no_denoiser(*_: Any) -> nn.Module:
    """Leave images as they are."""
    return nn.Identity()
