"""Per-class rejectors on a shared backbone."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decrop.networks.cifar_resnet import BasicBlock


class Rejector(nn.Module):
    """A ResNet that sees denoised images and a classifier's feature maps, with one head a class.

    Sheikholeslami et al., Denoised Smoothing with Sample Rejection, 2022, section 6: a
    ResNet-34-like backbone in its form for small images (3x3 stem, no max-pooling), after each of
    whose blocks feature maps of the classifier are appended, averaged or repeated to the same size;
    then global pooling and three linear layers, the last of which are the heads.
    """

    def __init__(
        self,
        *,
        image_channels: int,
        class_count: int,
        feature_channels: Sequence[int],
        width: int,
        blocks: Sequence[int],
        hidden_units: int,
    ) -> None:
        """Build it with random weights.

        Args:
            image_channels: C.
            class_count: K, number of heads.
            feature_channels: channels of each feature map, at most as many as blocks; the last map
                is appended again after the blocks that have none of their own. May be empty.
            width: channels of the first block; each next has twice as many.
            blocks: residual units of each block.
            hidden_units: of the first two linear layers.
        """
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(image_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.ModuleList()
        last = len(feature_channels) - 1
        self._appended = [min(block, last) if last >= 0 else None for block in range(len(blocks))]
        channels = width
        for number, units in enumerate(blocks):
            own = width * 2**number
            first = BasicBlock(channels, own, 1 if number == 0 else 2)
            rest = (BasicBlock(own, own, 1) for _ in range(units - 1))
            self.blocks.append(nn.Sequential(first, *rest))
            channels = own
            appended = self._appended[number]
            if appended is not None:
                channels += feature_channels[appended]
        self.heads = nn.Sequential(
            nn.Linear(channels, hidden_units),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_units, hidden_units),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_units, class_count),
        )

    def forward(self, denoised: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Return the logit of rejection of each head, [B, K].

        Args:
            denoised: images [B, C, H, W] in [0,1] pixels.
            features: maps [B, channels, height, width] of the classifier on these images.
        """
        maps = self.stem(denoised)
        for block, appended in zip(self.blocks, self._appended, strict=True):
            maps = block(maps)
            if appended is not None:
                resized = F.adaptive_avg_pool2d(features[appended], maps.shape[-2:])
                maps = torch.cat([maps, resized], dim=1)
        logits: Tensor = self.heads(maps.mean((2, 3)))
        return logits
