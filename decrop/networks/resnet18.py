"""torchvision's ResNet-18 with a stem for small images."""

from torch import nn


def resnet18(*, image_channels: int, class_count: int) -> nn.Module:
    """Build a ResNet-18 whose stem is one 3x3 convolution, without stride and max-pooling.

    He et al., Deep Residual Learning for Image Recognition, CVPR 2016: blocks of table 1, stem of
    section 4.2. Keys are torchvision's; 512 features; images [B, C, H, W] -> logits [B, K].
    """
    # Imported where it is used: it takes two seconds, and the other networks need none of it.
    from decrop._torchvision import torchvision

    network: nn.Module = torchvision.models.resnet18(num_classes=class_count)
    network.conv1 = nn.Conv2d(image_channels, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network
