"""Mixtures of images of a batch: mixup and cutmix."""

from collections.abc import Callable

import torch
from scipy.special import betaincinv
from torch import Tensor

from decrop.config import AugmentationSettings, Mixing


def mixed(
    views: list[Tensor], settings: AugmentationSettings, generator: torch.Generator
) -> list[Tensor]:
    """Mix each image with another of the batch, its partner in a random permutation.

    An image's share in its mixture is drawn from Beta(alpha, alpha). mixup (Zhang et al., ICLR
    2018, eq. 1) blends; cutmix (Yun et al., ICCV 2019, eq. 2) pastes a box of the partner, which
    covers what is left of the image's share, less what lies outside.

    Args:
        views: tensors [B, C, H, W] of one shape, floats; all are mixed alike.
        settings: kind of mixing, and alpha.
        generator: a CPU generator.
    """
    return MIXINGS[settings.mixing](views, settings, generator)


def _unmixed(views: list[Tensor], _: AugmentationSettings, __: torch.Generator) -> list[Tensor]:
    return views


def _mixup(
    views: list[Tensor], settings: AugmentationSettings, generator: torch.Generator
) -> list[Tensor]:
    partner, share = _draw_partner_and_share(views[0], settings, generator)
    weight = share.to(views[0])[:, None, None, None]
    return [torch.lerp(view[partner], view, weight) for view in views]


def _cutmix(
    views: list[Tensor], settings: AugmentationSettings, generator: torch.Generator
) -> list[Tensor]:
    count, _, height, width = views[0].shape
    partner, share = _draw_partner_and_share(views[0], settings, generator)
    rows, columns = (
        _interval(length, torch.randint(length, (count,), generator=generator), share)
        for length in (height, width)
    )
    box = (rows[:, None, :, None] & columns[:, None, None, :]).to(views[0].device)
    return [torch.where(box, view[partner], view) for view in views]


def _draw_partner_and_share(
    view: Tensor, settings: AugmentationSettings, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    partner = torch.randperm(len(view), generator=generator)
    quantiles = torch.rand(len(view), generator=generator, dtype=torch.float64)
    # By inversion, for PyTorch's Beta distribution draws from the global generator only.
    share = betaincinv(settings.mixing_alpha, settings.mixing_alpha, quantiles.numpy())
    return partner.to(view.device), torch.from_numpy(share)


def _interval(length: int, centre: Tensor, share: Tensor) -> Tensor:
    half = (0.5 * (1 - share).sqrt() * length).floor()[:, None]
    distance = torch.arange(length) - centre[:, None]
    return (distance >= -half) & (distance < half)


MIXINGS: dict[
    Mixing,
    Callable[[list[Tensor], AugmentationSettings, torch.Generator], list[Tensor]],
] = {"none": _unmixed, "mixup": _mixup, "cutmix": _cutmix}
