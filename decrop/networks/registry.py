"""Architectures by their registered names."""

from collections.abc import Callable
from functools import partial

from torch import nn

from decrop.config import ClassifierArchitecture, DenoiserArchitecture, DenoiserSettings
from decrop.networks.alexnet import AlexNet
from decrop.networks.dncnn import DnCNN
from decrop.networks.memnet import MemNet
from decrop.networks.resnet import CifarResNet, ResNet12, resnet18
from decrop.networks.small_cnn import SmallCNN
from decrop.networks.unet import UNet

CLASSIFIERS: dict[ClassifierArchitecture, Callable[..., nn.Module]] = {
    "small_cnn": SmallCNN,
    "cifar_resnet20": partial(CifarResNet, blocks=3),
    "cifar_resnet56": partial(CifarResNet, blocks=9),
    "cifar_resnet110": partial(CifarResNet, blocks=18),
    "resnet12": ResNet12,
    "alexnet": AlexNet,
    "half_alexnet": partial(AlexNet, halved=True),
    "resnet18": resnet18,
}
# Pixels a side that are left at least one after all pooling; the others take any image.
SMALLEST_IMAGES: dict[ClassifierArchitecture, int] = {
    "small_cnn": 2,
    "resnet12": 16,
    "alexnet": 15,
    "half_alexnet": 15,
}


def build_classifier_network(
    architecture: ClassifierArchitecture, *, image_channels: int, class_count: int
) -> nn.Module:
    """Build an untrained classifier network: standardised images [B, C, H, W] -> logits [B, K]."""
    return CLASSIFIERS[architecture](image_channels=image_channels, class_count=class_count)


def build_denoiser(settings: DenoiserSettings, *, image_channels: int) -> nn.Module:
    """Build an untrained denoiser: noisy images [B, C, H, W] -> images of the same shape.

    Where there is none, images stay as they are.
    """
    if settings.architecture == "none":
        return nn.Identity()
    return DENOISERS[settings.architecture](settings, image_channels)


def _dncnn(settings: DenoiserSettings, image_channels: int, *, widening: int = 1) -> nn.Module:
    return DnCNN(
        image_channels=image_channels,
        depth=settings.depth,
        channels=widening * settings.channels,
    )


def _memnet(settings: DenoiserSettings, image_channels: int) -> nn.Module:
    return MemNet(image_channels=image_channels, channels=settings.channels)


def _unet(settings: DenoiserSettings, image_channels: int) -> nn.Module:
    return UNet(image_channels=image_channels, channels=settings.channels)


DENOISERS: dict[DenoiserArchitecture, Callable[[DenoiserSettings, int], nn.Module]] = {
    "dncnn": _dncnn,
    "dncnn_wide": partial(_dncnn, widening=2),
    "memnet": _memnet,
    "unet": _unet,
}
