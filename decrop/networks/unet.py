"""A U-Net of DRUNet's shape."""

from torch import Tensor, nn
from torch.nn import functional as F

from decrop.config import DenoiserSettings

# Two levels below full resolution; images are padded to a multiple of their scale.
_LOWEST_SCALE = 4


class UNet(nn.Module):
    """A denoiser that predicts the noise: x - network(x).

    Three resolutions with 1, 2 and 4 times `channels`: a residual block each on the way down and
    up, three at the lowest; strided convolutions lead down, transposed ones up, and what they
    return is added to the maps of the same resolution. No BatchNorm and no biases. The last layer
    starts at zero, so that an untrained denoiser is the identity. Input and output are [B, C, H, W]
    in [0,1] pixels plus noise, of any size.

    Zhang et al., Plug-and-Play Image Restoration with Deep Denoiser Prior, TPAMI 2021, section 4.1;
    theirs has four resolutions with four blocks each, and predicts the image.
    """

    def __init__(self, *, image_channels: int, channels: int) -> None:
        super().__init__()
        middle, lowest = 2 * channels, 4 * channels
        self.head = nn.Conv2d(image_channels, channels, 3, padding=1, bias=False)
        self.down1 = nn.Sequential(_ResidualBlock(channels), _downsampling(channels, middle))
        self.down2 = nn.Sequential(_ResidualBlock(middle), _downsampling(middle, lowest))
        self.body = nn.Sequential(*(_ResidualBlock(lowest) for _ in range(3)))
        self.up2 = nn.Sequential(_upsampling(lowest, middle), _ResidualBlock(middle))
        self.up1 = nn.Sequential(_upsampling(middle, channels), _ResidualBlock(channels))
        self.tail = nn.Conv2d(channels, image_channels, 3, padding=1, bias=False)
        nn.init.zeros_(self.tail.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Return the denoised images, of the input's shape."""
        height, width = images.shape[-2], images.shape[-1]
        padding = (0, -width % _LOWEST_SCALE, 0, -height % _LOWEST_SCALE)
        full = self.head(F.pad(images, padding, mode="replicate"))
        half = self.down1(full)
        quarter = self.down2(half)
        half = half + self.up2(quarter + self.body(quarter))
        noise: Tensor = self.tail(full + self.up1(half))
        return images - noise[..., :height, :width]


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )

    def forward(self, maps: Tensor) -> Tensor:
        residual: Tensor = self.layers(maps)
        return maps + residual


def _downsampling(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 2, stride=2, bias=False)


def _upsampling(channels_in: int, channels_out: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels_in, channels_out, 2, stride=2, bias=False)


def unet(settings: DenoiserSettings, image_channels: int) -> UNet:
    """Build it of the settings."""
    return UNet(image_channels=image_channels, channels=settings.channels)
