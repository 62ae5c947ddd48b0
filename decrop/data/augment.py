"""Batched augmentation of training images, on their device."""

import torch
from torch import Tensor

from decrop.config import AugmentationSettings
from decrop.data.mixing import mixed
from decrop.data.policies import moved


def augments(settings: AugmentationSettings) -> bool:
    """Tell whether views may differ from the images they are made from."""
    return settings.policy != "none" or settings.mixing != "none"


def augment_views(
    views: list[Tensor], settings: AugmentationSettings, generator: torch.Generator
) -> list[Tensor]:
    """Move and mix views of the same images; every image has draws of its own.

    First a policy of DE-CROP's supplement, section 4, then mixup or cutmix, if asked for. Matched
    views share all draws; independent ones none.

    No labels are mixed: the losses compare with the classifier's prediction on the clean view that
    is returned, so that a mixed clean image gives its own target.

    torchvision's transforms draw once for the whole batch, and from the global generator. Hence
    the parameters of all images are drawn here, from `generator`, and applied to all at once.

    Args:
        views: tensors [B, C, H, W] of one shape, floats in [0,1]; row i of each shows the same
            image. Shape, dtype and range are kept.
        settings: policy, mixing and whether views are matched.
        generator: a CPU generator.
    """
    if settings.views == "independent":
        return [_augmented([view], settings, generator)[0] for view in views]
    return _augmented(views, settings, generator)


def _augmented(
    views: list[Tensor], settings: AugmentationSettings, generator: torch.Generator
) -> list[Tensor]:
    return mixed(moved(views, settings, generator), settings, generator)
