"""ResNets: those for CIFAR (He et al. 2016, section 4.2), ResNet-12 and ResNet-18."""

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

# Of ResNet-12.
_SLOPE = 0.1
_WIDTHS = (64, 160, 320, 640)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut, projected where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, maps: Tensor) -> Tensor:
        """Return [B, channels_out, H / stride, W / stride]."""
        residual = F.relu(self.bn1(self.conv1(maps)))
        return F.relu(self.bn2(self.conv2(residual)) + self.downsample(maps))


class CifarResNet(nn.Module):
    """A 3x3 stem, three stages of `blocks` basic blocks (16, 32, 64 channels), 64 features."""

    def __init__(self, *, blocks: int, image_channels: int, class_count: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(image_channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1, blocks)
        self.layer2 = _stage(16, 32, 2, blocks)
        self.layer3 = _stage(32, 64, 2, blocks)
        self.fc = nn.Linear(64, class_count)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, class_count]."""
        maps = F.relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        logits: Tensor = self.fc(maps.mean((2, 3)))
        return logits


def _stage(channels_in: int, channels_out: int, stride: int, blocks: int) -> nn.Sequential:
    first = BasicBlock(channels_in, channels_out, stride)
    return nn.Sequential(
        first, *(BasicBlock(channels_out, channels_out, 1) for _ in range(blocks - 1))
    )


cifar_resnet20 = partial(CifarResNet, blocks=3)
cifar_resnet56 = partial(CifarResNet, blocks=9)
cifar_resnet110 = partial(CifarResNet, blocks=18)


class ResNet12(nn.Module):
    """Four residual blocks of 64, 160, 320 and 640 channels, pooled to 640 features.

    Lee et al., Meta-Learning with Differentiable Convex Optimization (MetaOptNet), CVPR 2019,
    section 4.1, without its DropBlock, which a classifier in eval mode leaves out. Keys are theirs;
    the linear layer is `fc`. Images have 16 pixels a side or more.
    """

    def __init__(self, *, image_channels: int, class_count: int) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(_Block(image_channels, _WIDTHS[0]))
        self.layer2 = nn.Sequential(_Block(_WIDTHS[0], _WIDTHS[1]))
        self.layer3 = nn.Sequential(_Block(_WIDTHS[1], _WIDTHS[2]))
        self.layer4 = nn.Sequential(_Block(_WIDTHS[2], _WIDTHS[3]))
        self.fc = nn.Linear(_WIDTHS[3], class_count)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, class_count] of images [B, C, H, W]."""
        maps = self.layer4(self.layer3(self.layer2(self.layer1(images))))
        logits: Tensor = self.fc(maps.mean((2, 3)))
        return logits


class _Block(nn.Module):
    """Three 3x3 convolutions beside a projection, then 2x2 max-pooling."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.conv3 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out)
        )

    def forward(self, maps: Tensor) -> Tensor:
        residual = F.leaky_relu(self.bn1(self.conv1(maps)), _SLOPE)
        residual = F.leaky_relu(self.bn2(self.conv2(residual)), _SLOPE)
        residual = self.bn3(self.conv3(residual))
        activated = F.leaky_relu(residual + self.downsample(maps), _SLOPE)
        return F.max_pool2d(activated, 2)


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
