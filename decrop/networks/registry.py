"""Architectures by their registered names."""

from collections.abc import Callable
from functools import partial

from torch import nn

from decrop.config import ClassifierArchitecture, DenoiserArchitecture, DenoiserSettings
from decrop.networks.cifar_resnet import CifarResNet
from decrop.networks.dncnn import DnCNN
from decrop.networks.small_cnn import SmallCNN

CLASSIFIERS: dict[ClassifierArchitecture, Callable[..., nn.Module]] = {
    "small_cnn": SmallCNN,
    "cifar_resnet20": partial(CifarResNet, blocks=3),
    "cifar_resnet56": partial(CifarResNet, blocks=9),
    "cifar_resnet110": partial(CifarResNet, blocks=18),
}
DENOISERS: dict[DenoiserArchitecture, Callable[..., nn.Module]] = {"dncnn": DnCNN}


def build_classifier_network(
    architecture: ClassifierArchitecture, *, image_channels: int, class_count: int
) -> nn.Module:
    """Build an untrained classifier network: standardised images [B, C, H, W] -> logits [B, K]."""
    return CLASSIFIERS[architecture](image_channels=image_channels, class_count=class_count)


def build_denoiser(settings: DenoiserSettings, *, image_channels: int) -> nn.Module:
    """Build an untrained denoiser: noisy images [B, C, H, W] -> images of the same shape."""
    return DENOISERS[settings.architecture](
        image_channels=image_channels, depth=settings.depth, channels=settings.channels
    )
