"""Images that a black box is asked about: limited ones, moved and mixed ones, and dead leaves."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import torch
from torch import Tensor

from decrop.config import AugmentationSettings, Mixing, SurrogateSettings
from decrop.data.augmentation import mixed, moved
from decrop.errors import InputError
from decrop.seeds import numpy_generator, torch_generator
from decrop.synthesis.dead_leaves import dead_leaves

# Images that are made, asked about and kept together.
PIECE = 250


def further_images(settings: SurrogateSettings, limited: int) -> int:
    """Return how many images are asked about beside the limited ones.

    Args:
        limited: number of limited images, those held out included.
    """
    if settings.queries < limited:
        raise InputError(
            f"classifier.surrogate.queries {settings.queries}: must be at least {limited}, for "
            "each limited image is asked about."
        )
    return settings.queries - limited


def further_pieces(
    images: Tensor, count: int, settings: SurrogateSettings, *, seed: int
) -> Iterator[Tensor]:
    """Make images out of limited ones and of nothing, in pieces.

    First moved images, then mixtures by mixup and by cutmix of moved images, then dead leaves. All
    are rounded to 8 bits, as images are. A piece does not depend on how many follow it, so a count
    that is raised begins with the same images of each kind.

    Args:
        images: to move and to mix, uint8 [n, C, H, W].

    Yields:
        uint8 [at most PIECE, C, H, W].
    """
    generated = round(settings.generated_share * count)
    mixtures = min(round(settings.mixed_share * count), count - generated)
    move = partial(_moved, images, settings, seed)
    yield from _pieces(move, count - generated - mixtures)
    for mixing, part in (("mixup", mixtures - mixtures // 2), ("cutmix", mixtures // 2)):
        yield from _pieces(partial(_mixed, images, settings, seed, cast(Mixing, mixing)), part)
    yield from _pieces(partial(_generated, images.shape[1:], seed), generated)


def _pieces(make: Callable[[int], Tensor], count: int) -> Iterator[Tensor]:
    for piece, start in enumerate(range(0, count, PIECE)):
        images = make(piece)[: count - start]
        yield (images.clamp(0, 1) * 255).round().to(torch.uint8)


def _moved(images: Tensor, settings: SurrogateSettings, seed: int, piece: int) -> Tensor:
    return _moved_by(torch_generator(seed, "moved queries", piece), images, settings)


def _mixed(
    images: Tensor, settings: SurrogateSettings, seed: int, mixing: Mixing, piece: int
) -> Tensor:
    generator = torch_generator(seed, "mixed queries", mixing, piece)
    views = [_moved_by(generator, images, settings)]
    how = AugmentationSettings(mixing=mixing, mixing_alpha=settings.mixing_alpha)
    return mixed(views, how, generator)[0]


def _generated(shape: torch.Size, seed: int, piece: int) -> Tensor:
    return dead_leaves((PIECE, *shape), numpy_generator(seed, "generated queries", piece))


def _moved_by(generator: torch.Generator, images: Tensor, settings: SurrogateSettings) -> Tensor:
    rows = torch.randint(len(images), (PIECE,), generator=generator)
    policy = AugmentationSettings(
        policy=settings.augmentation_policy,
        crop_padding=settings.crop_padding,
        flip_probability=settings.flip_probability,
    )
    return moved([images[rows].float() / 255], policy, generator)[0]
