"""Batched augmentation on the device: random crop and horizontal flip."""

import torch
import torch.nn.functional as F
from torch import Tensor

from decrop.config import AugmentationSettings


def augment_views(
    views: list[Tensor], settings: AugmentationSettings, generator: torch.Generator
) -> list[Tensor]:
    """Crop and flip views of the same images.

    Policy 1 of DE-CROP's supplement, section 4: zero padding, a random crop of the original size,
    then a horizontal flip with some probability, drawn for each image. Matched views share draws.

    Args:
        views: tensors [B, C, H, W] of one shape; row i of each shows the same image.
        settings: padding, probability and whether views are matched.
        generator: a CPU generator.
    """
    if settings.views == "independent":
        return [_crop_and_flip([view], settings, generator)[0] for view in views]
    return _crop_and_flip(views, settings, generator)


def _crop_and_flip(
    views: list[Tensor], settings: AugmentationSettings, generator: torch.Generator
) -> list[Tensor]:
    batch, _, height, width = views[0].shape
    padding = settings.crop_padding
    top = torch.randint(2 * padding + 1, (batch,), generator=generator)
    left = torch.randint(2 * padding + 1, (batch,), generator=generator)
    flip = torch.rand(batch, generator=generator) < settings.flip_probability
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    device = views[0].device
    image = torch.arange(batch, device=device)[:, None, None]
    rows, columns = rows[:, :, None].to(device), columns[:, None, :].to(device)
    # Indexing [B, H, W] before the channels puts these last.
    return [
        F.pad(view, (padding,) * 4).permute(0, 2, 3, 1)[image, rows, columns].permute(0, 3, 1, 2)
        for view in views
    ]
