"""What every source gives."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from decrop.config import ClassifierSettings
from decrop.data.datasets import Dataset


@dataclass(frozen=True)
class Network:
    """A network of a source.

    Attributes:
        module: standardised images [B, C, H, W] to logits [B, K].
        architecture: what it is, wherever it lay: a registered name, the dotted path or model name
            that built it, or `PROGRAM`.
    """

    module: nn.Module
    architecture: str


# The architecture of a torch.export program, and its file's name in a bundle.
PROGRAM = "program.pt2"
Source = Callable[[ClassifierSettings, Dataset], Network]
