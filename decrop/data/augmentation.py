"""Augmentation of training images: policies, mixup, cutmix, in batches on their device."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from scipy.special import betaincinv
from torch import Tensor

from decrop.config import AugmentationPolicy, AugmentationSettings, Mixing


def moved(
    views: list[Tensor], settings: AugmentationSettings, generator: torch.Generator
) -> list[Tensor]:
    """Apply a policy of DE-CROP's supplement, section 4, at random for each image.

    1: a crop of the original size at a random place of the zero-padded image, then a horizontal
    flip with some probability. 2: one of a horizontal flip, a vertical flip (both with that
    probability), the crop, and an affine transform: rotation and translation by up to what the
    settings say. 3: all four. The affine transform takes the nearest pixel, and zero outside, which
    is torchvision's default.

    Args:
        views: tensors [B, C, H, W] of one shape, floats; all are moved alike.
        generator: a CPU generator.
    """
    for move in POLICIES[settings.policy](views[0].shape, settings, generator):
        views = [move.applied_to(view) for view in views]
    return views


@dataclass(frozen=True)
class CropAndFlips:
    """A crop of each padded image, then flips.

    Attributes:
        padding: zero pixels on each side.
        top: first row of the crop in the padded image, int64 [B].
        left: first column, int64 [B].
        horizontal: whether left and right are swapped, bool [B].
        vertical: whether top and bottom are swapped, bool [B].
    """

    padding: int
    top: Tensor
    left: Tensor
    horizontal: Tensor
    vertical: Tensor

    def applied_to(self, view: Tensor) -> Tensor:
        """Return images [B, C, H, W] of the same shape and dtype."""
        count, _, height, width = view.shape
        rows = self.top[:, None] + torch.arange(height)
        columns = self.left[:, None] + torch.arange(width)
        rows = torch.where(self.vertical[:, None], rows.flip(1), rows)
        columns = torch.where(self.horizontal[:, None], columns.flip(1), columns)
        image = torch.arange(count, device=view.device)[:, None, None]
        rows, columns = rows[:, :, None].to(view.device), columns[:, None, :].to(view.device)
        padded = F.pad(view, (self.padding,) * 4).permute(0, 2, 3, 1)
        # Indexing [B, H, W] before the channels puts these last.
        return padded[image, rows, columns].permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Affine:
    """A clockwise rotation of each image about its centre, then a shift.

    Attributes:
        degrees: float [B].
        right: whole pixels, float [B].
        down: whole pixels, float [B].
    """

    degrees: Tensor
    right: Tensor
    down: Tensor

    def applied_to(self, view: Tensor) -> Tensor:
        """Return images [B, C, H, W] of the same shape and dtype."""
        height, width = view.shape[2:]
        cosine, sine = self.degrees.deg2rad().cos(), self.degrees.deg2rad().sin()
        # From a place in the result to the one it comes from: back by the shift, then back by the
        # rotation. The grid counts both axes from -1 to 1, whatever the image's proportions.
        x, y = -2 * self.right / width, -2 * self.down / height
        x_by_y, y_by_x = sine * (height / width), -sine * (width / height)
        to_source = torch.stack(
            [
                torch.stack([cosine, x_by_y, cosine * x + x_by_y * y], dim=1),
                torch.stack([y_by_x, cosine, y_by_x * x + cosine * y], dim=1),
            ],
            dim=1,
        ).to(view)
        grid = F.affine_grid(to_source, list(view.shape), align_corners=False)
        return F.grid_sample(view, grid, mode="nearest", align_corners=False)


Moves = tuple[CropAndFlips | Affine, ...]


def _crop_then_flip(
    shape: torch.Size, settings: AugmentationSettings, generator: torch.Generator
) -> Moves:
    return (_draw_crop_and_flip(shape, settings, generator),)


def _one_of_four(
    shape: torch.Size, settings: AugmentationSettings, generator: torch.Generator
) -> Moves:
    crop, affine = _all_four(shape, settings, generator)
    choice = torch.randint(4, shape[:1], generator=generator)
    # The crop that starts where the padding ends is the image.
    image = torch.full_like(crop.top, crop.padding)
    only_one = replace(
        crop,
        horizontal=crop.horizontal & (choice == 0),
        vertical=crop.vertical & (choice == 1),
        top=torch.where(choice == 2, crop.top, image),
        left=torch.where(choice == 2, crop.left, image),
    )
    used = choice == 3
    return only_one, Affine(used * affine.degrees, used * affine.right, used * affine.down)


def _all_four(
    shape: torch.Size, settings: AugmentationSettings, generator: torch.Generator
) -> tuple[CropAndFlips, Affine]:
    count, _, height, width = shape
    # The place of a crop is as likely as its mirror image: before a flip or after it is the same.
    crop = _draw_crop_and_flip(shape, settings, generator)
    vertical = torch.rand(count, generator=generator) < settings.flip_probability
    turn, right, down = 2 * torch.rand(3, count, generator=generator) - 1
    affine = Affine(
        degrees=settings.rotation_degrees * turn,
        right=(settings.translation_width * width * right).round(),
        down=(settings.translation_height * height * down).round(),
    )
    return replace(crop, vertical=vertical), affine


def _draw_crop_and_flip(
    shape: torch.Size, settings: AugmentationSettings, generator: torch.Generator
) -> CropAndFlips:
    count, corners = shape[0], 2 * settings.crop_padding + 1
    top = torch.randint(corners, (count,), generator=generator)
    left = torch.randint(corners, (count,), generator=generator)
    horizontal = torch.rand(count, generator=generator) < settings.flip_probability
    upright = torch.zeros_like(horizontal)
    return CropAndFlips(settings.crop_padding, top, left, horizontal, vertical=upright)


POLICIES: dict[
    AugmentationPolicy,
    Callable[[torch.Size, AugmentationSettings, torch.Generator], Moves],
] = {"none": lambda *_: (), 1: _crop_then_flip, 2: _one_of_four, 3: _all_four}


def mixed(
    views: list[Tensor], settings: AugmentationSettings, generator: torch.Generator
) -> list[Tensor]:
    """Mix each image with another of the batch, its partner in a random permutation.

    An image's share in its mixture is sampled from Beta(alpha, alpha). mixup (Zhang et al., ICLR
    2018, eq. 1) blends; cutmix (Yun et al., ICCV 2019, eq. 2) pastes a box of the partner, which
    covers what is left of the image's share, less what lies outside.

    Args:
        views: tensors [B, C, H, W] of one shape, floats; all are mixed alike.
        generator: a CPU generator.
    """
    return MIXINGS[settings.mixing](views, settings, generator)


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
    # By inversion, for PyTorch's Beta distribution samples from the global generator only.
    share = betaincinv(settings.mixing_alpha, settings.mixing_alpha, quantiles.numpy())
    return partner.to(view.device), torch.from_numpy(share)


def _interval(length: int, centre: Tensor, share: Tensor) -> Tensor:
    half = (0.5 * (1 - share).sqrt() * length).floor()[:, None]
    distance = torch.arange(length) - centre[:, None]
    return (distance >= -half) & (distance < half)


MIXINGS: dict[
    Mixing,
    Callable[[list[Tensor], AugmentationSettings, torch.Generator], list[Tensor]],
] = {"none": lambda views, *_: views, "mixup": _mixup, "cutmix": _cutmix}


def augments(settings: AugmentationSettings) -> bool:
    """Tell whether views may differ from the images they are made from."""
    return settings.policy != "none" or settings.mixing != "none"


def augment_views(
    views: list[Tensor], settings: AugmentationSettings, generator: torch.Generator
) -> list[Tensor]:
    """Move and mix views of the same images; every image has random choices of its own.

    First a policy of DE-CROP's supplement, section 4, then mixup or cutmix, if asked for. Matched
    views share all choices; independent ones none.

    No labels are mixed: the losses compare with the classifier's prediction on the clean view that
    is returned, so that a mixed clean image gives its own target.

    torchvision's transforms choose once for the whole batch, and from the global generator. Hence
    the parameters of all images are sampled here, from `generator`, and applied to all at once.

    Args:
        views: tensors [B, C, H, W] of one shape, floats in [0,1]; row i of each shows the same
            image. Shape, dtype and range are kept.
        generator: a CPU generator.
    """
    if settings.views == "independent":
        return [_augmented([view], settings, generator)[0] for view in views]
    return _augmented(views, settings, generator)


def _augmented(
    views: list[Tensor], settings: AugmentationSettings, generator: torch.Generator
) -> list[Tensor]:
    return mixed(moved(views, settings, generator), settings, generator)
