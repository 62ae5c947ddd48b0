"""DnCNN (Zhang et al. 2017) as denoised smoothing and DE-CROP use it."""

from torch import Tensor, nn

from decrop.config import DenoiserSettings

# PyTorch's convention: the running statistics are nearly those of the last batch.
_BATCH_NORM_MOMENTUM = 0.95
_BATCH_NORM_EPSILON = 1e-4


class DnCNN(nn.Module):
    """A denoiser that predicts the noise: x - network(x).

    A convolution with bias and ReLU, `depth` - 2 times convolution, BatchNorm and ReLU, and a last
    convolution, all 3x3. Initialisation is orthogonal and the last layer zero, so that an untrained
    denoiser is the identity. Input and output are [B, C, H, W] in [0,1] pixels plus noise.
    """

    def __init__(self, *, image_channels: int, depth: int, channels: int) -> None:
        super().__init__()
        first = nn.Conv2d(image_channels, channels, 3, padding=1)
        nn.init.orthogonal_(first.weight)
        nn.init.zeros_(first.bias)  # type: ignore[arg-type]  # the convolution has a bias
        layers: list[nn.Module] = [first, nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            nn.init.orthogonal_(convolution.weight)
            layers += [
                convolution,
                nn.BatchNorm2d(channels, eps=_BATCH_NORM_EPSILON, momentum=_BATCH_NORM_MOMENTUM),
                nn.ReLU(inplace=True),
            ]
        last = nn.Conv2d(channels, image_channels, 3, padding=1, bias=False)
        nn.init.zeros_(last.weight)
        self.noise = nn.Sequential(*layers, last)

    def forward(self, images: Tensor) -> Tensor:
        """Return the denoised images, of the input's shape."""
        denoised: Tensor = images - self.noise(images)
        return denoised


def dncnn(settings: DenoiserSettings, image_channels: int) -> DnCNN:
    """Build it of the settings."""
    return DnCNN(image_channels=image_channels, depth=settings.depth, channels=settings.channels)


def dncnn_wide(settings: DenoiserSettings, image_channels: int) -> DnCNN:
    """Build it with twice as many channels as the settings say."""
    return DnCNN(
        image_channels=image_channels, depth=settings.depth, channels=2 * settings.channels
    )
