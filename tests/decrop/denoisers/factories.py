"""Denoisers as people write them, named by `denoiser.source` in tests."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Smoothing(nn.Module):
    """Mixes each pixel with its neighbours, by one weight."""

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor(share))

    def forward(self, images: Tensor) -> Tensor:
        return images + self.share * (F.avg_pool2d(images, 3, 1, 1) - images)


class SymmetricNoise(nn.Module):
    """Takes pixels of [-1,1] and sigma in their units, and returns the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.smoothing = Smoothing()

    def forward(self, images: Tensor, sigma: Tensor) -> Tensor:
        assert images.shape[-1] % 4 == images.shape[-2] % 4 == 0
        level = sigma[:, None, None, None]
        return level * (images - self.smoothing(images))


class ByBatch(Smoothing):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) - images.mean(dim=0, keepdim=True)


class Cropping(Smoothing):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[..., 1:]


class Endless(Smoothing):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) / 0


class Failing(Smoothing):
    def forward(self, images: Tensor) -> Tensor:
        raise RuntimeError("no\nimages today")


class Negative(Smoothing):
    def forward(self, images: Tensor) -> Tensor:
        return 1 - super().forward(images)


def number() -> int:
    return 3
