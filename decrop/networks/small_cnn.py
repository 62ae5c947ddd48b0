"""A small classifier for images of about 8x8 pixels."""

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Three 3x3 convolutions with BatchNorm, pooled to 64 features; logits [B, class_count]."""

    def __init__(self, *, image_channels: int, class_count: int) -> None:
        super().__init__()
        self.maps = nn.Sequential(
            *_convolution(image_channels, 32),
            *_convolution(32, 64),
            nn.MaxPool2d(2),
            *_convolution(64, 64),
        )
        self.fc = nn.Linear(64, class_count)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, class_count] of images [B, C, H, W]."""
        logits: Tensor = self.fc(self.maps(images).mean((2, 3)))
        return logits


def _convolution(channels_in: int, channels_out: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return (
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )
