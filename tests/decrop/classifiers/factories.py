"""Functions that a user might name as the source of a classifier, good and bad."""

import torch
from torch import Tensor, nn

from decrop.seeds import seeded_globals

NOT_CALLABLE = 3


def make(width: int = 6, classes: int = 4, size: int = 6) -> nn.Module:
    """A convolutional network on images [B, 1, size, size]."""
    with seeded_globals(0, "factory"):
        return nn.Sequential(
            nn.Conv2d(1, width, 3),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(width * (size - 2) ** 2, classes),
        )


def no_module() -> str:
    return "network"


def failing() -> nn.Module:
    raise RuntimeError("no licence\nfor this")


class OnBatch(nn.Module):
    """Normalises by the batch, so that images depend on each other."""

    def forward(self, images: Tensor) -> Tensor:
        rows = images.flatten(1)[:, :4]
        return rows - rows.mean(0)


class Pair(nn.Module):
    """Gives more than logits."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images, images


class Flat(nn.Module):
    """Gives one row in all."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((0, 1, 2))


class NotFinite(nn.Module):
    """Divides by zero."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :4] / torch.zeros(())
