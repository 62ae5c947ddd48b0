"""A registered network, and weights of it in a file."""

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from decrop.config import ClassifierArchitecture
from decrop.networks.registry import build_classifier_network


def network(
    architecture: ClassifierArchitecture = "cifar_resnet20", classes: int = 10
) -> nn.Module:
    return build_classifier_network(architecture, image_channels=3, class_count=classes)


def written(path: Path, weights: dict[str, Tensor]) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    return path
