"""Rejecting networks on which a test computes for milliseconds."""

import torch
from torch import Tensor, nn

from decrop.classifiers.classifier import Classifier
from decrop.classifiers.feature_maps import StagedClassifier
from decrop.config.rejector import RejectorSettings
from decrop.networks.small_cnn import SmallCNN
from decrop.rejection.network import RejectingNetwork, Rejector
from decrop.seeds import seeded_globals

SIZE, CLASSES = 8, 4
SHAPE = (1, SIZE, SIZE)


def small_settings(**changes: object) -> RejectorSettings:
    """Return settings of a rejector that trains in milliseconds, with changes."""
    return RejectorSettings.model_validate(
        {
            "width": 4,
            "blocks": (1, 1, 1, 1),
            "hidden_units": 8,
            "noise_draws": 3,
            "batch_size": 8,
            "epochs": 4,
            "adam_epochs": 2,
            "adam_learning_rate": 1e-2,
            **changes,
        }
    )


def small_classifier(seed: int = 0) -> Classifier:
    """A random SmallCNN with feature maps, on images [B, 1, SIZE, SIZE]."""
    with seeded_globals(seed, "small classifier"):
        network = SmallCNN(image_channels=1, class_count=CLASSES)
        images = torch.rand(64, *SHAPE)
    with torch.no_grad():
        _standardise(network.fc, network.eval()((images - 0.5) / 0.2))
    return Classifier(
        network, architecture="small_cnn", mean=(0.5,), std=(0.2,), class_count=CLASSES
    )


def denoiser(seed: int = 0) -> nn.Module:
    """A random denoiser with BatchNorm."""
    with seeded_globals(seed, "denoiser"):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 3, padding=1)
        ).eval()


class SmoothingWindow(nn.Module):
    """A denoiser without weights."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images, 3, 1, 1)


def rejecting_network(*, threshold: float = 0.5, seed: int = 0) -> RejectingNetwork:
    """A network whose heads reject about half of the images, by their maps."""
    classifier = StagedClassifier(small_classifier(seed), ("maps.2", "maps.9"))
    with seeded_globals(seed, "rejector"):
        rejector = Rejector(
            image_channels=1,
            class_count=CLASSES,
            feature_channels=classifier.channels(SHAPE),
            width=4,
            blocks=(1, 1, 1, 1),
            hidden_units=8,
        ).eval()
        images = torch.rand(64, *SHAPE) + 0.5 * torch.randn(64, *SHAPE)
    network = RejectingNetwork(SmoothingWindow(), classifier, rejector, threshold=threshold)
    with torch.no_grad():
        denoised = network.denoiser(images)
        logits, maps = classifier(denoised)
        _standardise(classifier.classifier.network.fc, logits)
        _standardise(rejector.heads[-1], rejector(denoised, maps))
    return network.eval()


def _standardise(layer: nn.Module, outputs: Tensor) -> None:
    """Let a linear layer's outputs have mean 0 and deviation 1, so that each is often largest."""
    assert isinstance(layer, nn.Linear)
    scale = 1 / outputs.std(0)
    layer.weight.mul_(scale[:, None])
    layer.bias.copy_((layer.bias - outputs.mean(0)) * scale)
