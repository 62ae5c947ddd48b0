"""The classifier to protect: frozen, on [0,1] pixels, with access to its penultimate features."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import JsonValue
from torch import Tensor, nn
from torch.nn import functional as F

from decrop.classifiers.features import FeatureReader
from decrop.classifiers.program import ExportedNetwork
from decrop.config import EndpointSettings
from decrop.files import sha256_of_json, sha256_of_tensors
from decrop.networks.identity import remember_settings

ChannelOrder = Literal["rgb", "bgr"]


class Classifier(nn.Module):
    """A pretrained network behind its input transform, never trained and always in eval mode.

    Channel standardisation, channel order and size come first, so that noise, denoiser, attacks and
    radii live in [0,1] pixels of the data.

    Attributes:
        takes_contiguous: whether images are brought into the contiguous layout before the network,
            for networks that cannot take another.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        architecture: str,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        class_count: int,
        arguments: Mapping[str, JsonValue] | None = None,
        input_size: tuple[int, int] | None = None,
        channel_order: ChannelOrder = "rgb",
        feature_layer: str | None = None,
    ) -> None:
        """Take a network.

        Args:
            network: standardised images [B, C, H, W] to logits [B, K].
            architecture: a registered name, or the source that built the network.
            mean: C channel means in [0,1] pixels, in the order of the data's channels.
            std: C channel standard deviations.
            arguments: that the source was given.
            input_size: height and width the network takes; those of the data if None.
            channel_order: in which the network takes the channels; the data's is rgb.
            feature_layer: module whose input is the features (see `FeatureReader`).
        """
        super().__init__()
        remember_settings(network)
        self.network = network
        self.architecture = architecture
        self.class_count = class_count
        self.arguments = dict(arguments or {})
        self.input_size = input_size
        self.channel_order: ChannelOrder = channel_order
        self.feature_layer = feature_layer
        self.takes_contiguous = False
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        self.requires_grad_(False)
        super().train(False)

    @property
    def channels(self) -> int:
        """Return the number of channels of an image."""
        return len(self.mean)

    def train(self, mode: bool = True) -> "Classifier":
        """Stay in eval mode: a protected classifier does not change."""
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K] of images [B, C, H, W] in [0,1] pixels."""
        standardised = (images - self.mean) / self.std
        if self.channel_order == "bgr":
            standardised = standardised.flip(1)
        if self.input_size is not None:
            # In fp32 whatever the precision: bf16 would round the interpolation's weights.
            resized = F.interpolate(
                standardised.float(), self.input_size, mode="bilinear", antialias=True
            )
            standardised = resized.to(standardised.dtype)
        if self.takes_contiguous:
            # A copy, for images of one channel count as contiguous in either layout.
            standardised = standardised.clone(memory_format=torch.contiguous_format)
        answer = self.network(standardised)
        # Hugging Face's networks, and many of Lightning, give logits beside other values.
        if isinstance(answer, Mapping):
            answer = answer.get("logits", answer)
        logits: Tensor = getattr(answer, "logits", answer)
        return logits

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, K] and L2-normalised penultimate features [B, F].

        The features are the input of the last linear layer or convolution that runs, or of the
        layer that was named, averaged over positions where it has any.
        """
        with FeatureReader(self.network, self.feature_layer) as reader:
            logits = self(images)
        return logits, F.normalize(reader.features(), dim=1)

    @torch.no_grad()
    def feature_layer_and_count(self, images: Tensor) -> tuple[str, int]:
        """Return the name of the layer whose input is the features of images, and their number."""
        with FeatureReader(self.network, self.feature_layer) as reader:
            self(images)
        return reader.layer(), reader.features().shape[1]

    def feature_count(self, images: Tensor) -> int:
        """Return the number F of penultimate features of images [B, C, H, W]."""
        return self.feature_layer_and_count(images)[1]

    def white_box(self) -> Self:
        """Return itself, whose gradients and features are there."""
        return self

    def recorded(self) -> None:
        """Return None: nothing has to be recorded of how it is asked."""

    def asked_as(self, settings: EndpointSettings | None, ledger_path: Path | None) -> Self:
        """Return itself: it is not asked over HTTP."""
        return self

    def understood(self, images: Tensor) -> dict[str, Any]:
        """Return what `decrop inspect` says of it, tried on an image of uint8 [B, C, H, W]."""
        shape = tuple(images.shape[1:])
        layer, features = self.feature_layer_and_count(images[:1].float() / 255)
        return {
            "architecture": self.architecture,
            "arguments": self.arguments,
            "parameters": sum(parameter.numel() for parameter in self.network.parameters()),
            "image_shape": shape,
            "input_size": self.input_size or shape[1:],
            "channel_order": self.channel_order,
            "mean": tuple(self.mean.flatten().tolist()),
            "std": tuple(self.std.flatten().tolist()),
            "feature_layer": layer,
            "features": features,
        }

    def description(self) -> dict[str, Any]:
        """Return what else than architecture, statistics and weights determines the classifier.

        Values that are the defaults are left out.
        """
        found = {
            "arguments": self.arguments,
            "input_size": self.input_size and list(self.input_size),
            "channel_order": None if self.channel_order == "rgb" else self.channel_order,
            "feature_layer": self.feature_layer,
        }
        return {name: value for name, value in found.items() if value}

    def content_hash(self) -> str:
        """Hash architecture, weights, standardisation and what `description` says."""
        identity: list[Any] = [self.architecture, sha256_of_tensors(self.state_dict())]
        details = self.description()
        if isinstance(self.network, ExportedNetwork):
            details["program"] = self.network.program_hash
        # Classifiers of earlier versions had no such details; their hashes are recorded.
        return sha256_of_json([*identity, details] if details else identity)
