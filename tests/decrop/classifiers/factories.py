"""Functions that a user might name as the source of a classifier, good and bad."""

from types import SimpleNamespace
from typing import Any

import torch
from sklearn.datasets import load_digits
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


class InMapping(nn.Module):
    """Gives logits beside other values, as networks of Lightning do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = make()

    def answer(self, images: Tensor) -> Any:
        return {"loss": None, "logits": self.inner(images)}

    def forward(self, images: Tensor) -> Any:
        return self.answer(images)


class InObject(InMapping):
    """Gives an object that has them."""

    def answer(self, images: Tensor) -> Any:
        return SimpleNamespace(**super().answer(images))


class Unnamed(InMapping):
    """Gives them under another name."""

    def answer(self, images: Tensor) -> Any:
        return {"scores": self.inner(images)}


class Flat(nn.Module):
    """Gives one row in all."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((0, 1, 2))


class NotFinite(nn.Module):
    """Divides by zero."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :4] / torch.zeros(())


class Flattening(nn.Module):
    """As people write networks for images [B, 1, size, size]: in a way that is not for all uses."""

    def __init__(self, way: str, size: int, classes: int) -> None:
        super().__init__()
        self.way = way
        self.convolution = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Linear(4 * size**2, classes)
        # No buffer, so that it stays where and what it is.
        self.shift = torch.full((1, 1, 1, 1), 0.1)
        self.kept: Tensor | None = None
        if way == "hook":
            # Copies of the network have it too, and it keeps what they compute in this one.
            self.convolution.register_forward_hook(lambda *given: setattr(self, "kept", given[2]))

    def forward(self, images: Tensor) -> Tensor:
        if self.way == "no_gradient":
            images = images.detach()
        if self.way == "cast":
            images = images.float()
        if self.way == "plain_tensor":
            images = images - self.shift
        if self.way == "grid":
            images = images + torch.linspace(-1, 1, images.shape[2]).view(1, 1, -1, 1)
        if self.way == "double":
            images = images.double()
        if self.way == "in_place":
            images.sub_(0.1)
        features = self.convolution(images).relu()
        self.kept = features
        rows = features.view(len(features), -1) if self.way == "view" else features.flatten(1)
        logits: Tensor = self.head(rows)
        return logits.squeeze() if self.way == "squeeze" else logits


def flattening(way: str, size: int = 6, classes: int = 4) -> nn.Module:
    with seeded_globals(0, "factory"):
        network = Flattening(way, size, classes)
    return network.double() if way == "double" else network


class NearestDigit(nn.Module):
    """Finds the digit whose mean image is nearest, among pixels of 0 to 255."""

    def __init__(self) -> None:
        super().__init__()
        found = load_digits()
        pixels, labels = torch.tensor(found.data).float() * (255 / 16), torch.tensor(found.target)
        means = torch.stack([pixels[labels == digit].mean(0) for digit in range(10)])
        self.head = nn.Linear(64, 10)
        self.head.weight.data = 2 * means
        self.head.bias.data = -means.square().sum(1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.flatten(1))
        return logits


class Misleading(nn.Module):
    """BatchNorms that no convolution before them may be joined with, for all their names."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.convolution = nn.Conv2d(1, 1, 3, padding=1)
        self.norm = nn.BatchNorm2d(1)
        self.other = nn.BatchNorm2d(1)
        self.head = nn.Linear(36, 4)
        for norm, scale in ((self.norm, 3.0), (self.other, 0.3)):
            nn.init.constant_(norm.weight, scale)
            nn.init.constant_(norm.running_mean, 0.5)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        convolved = self.convolution(images)
        if self.way == "residual":
            found = convolved + self.norm(convolved)
        elif self.way == "shared":
            found = self.other(self.convolution(self.norm(convolved).relu()))
        elif self.way == "before":
            found = self.convolution(self.norm(images).relu())
        else:
            found = self.norm(convolved.relu())
        logits: Tensor = self.head(found.flatten(1))
        return logits
