"""The classifier to protect: frozen, on [0,1] pixels, with access to its penultimate features."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decrop.errors import InputError
from decrop.files import sha256_of_json, sha256_of_tensors


class Classifier(nn.Module):
    """A pretrained network behind channel standardisation, never trained and always in eval mode.

    The channel standardisation comes first, so that noise, denoiser, attacks and radii live in
    [0,1] pixels.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        architecture: str,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        class_count: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.architecture = architecture
        self.class_count = class_count
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> "Classifier":
        """Stay in eval mode: a protected classifier does not change."""
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K] of images [B, C, H, W] in [0,1] pixels."""
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, K] and L2-normalised penultimate features [B, F].

        The features are the input of the last linear layer.
        """
        inputs: list[Tensor] = []
        layer = self._last_linear_layer()
        handle = layer.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
        try:
            logits = self(images)
        finally:
            handle.remove()
        return logits, F.normalize(inputs[-1].flatten(1), dim=1)

    @property
    def feature_count(self) -> int:
        """Number of penultimate features."""
        return self._last_linear_layer().in_features

    def content_hash(self) -> str:
        """Hash architecture, weights and standardisation."""
        return sha256_of_json([self.architecture, sha256_of_tensors(self.state_dict())])

    def _last_linear_layer(self) -> nn.Linear:
        layers = [layer for layer in self.network.modules() if isinstance(layer, nn.Linear)]
        if not layers:
            raise InputError(
                f"classifier.architecture: {self.architecture} has no linear layer; "
                "its penultimate features cannot be read."
            )
        return layers[-1]
