"""CIFAR ResNets of depth 6n + 2 (He et al. 2016, section 4.2)."""

from torch import Tensor, nn
from torch.nn import functional as F


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
