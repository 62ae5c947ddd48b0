"""Interpolated samples (DE-CROP, eqs. 6 and 7)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from decrop.classifiers.classifier import Classifier
from decrop.config import InterpolationSettings

# Published, and kept: the momentum of Adam on the pixels.
_ADAM_BETAS = (0.5, 0.999)


def mixing_coefficients(settings: InterpolationSettings) -> list[float]:
    """Return `count` distinct mixing coefficients in [0,1] whose median is `mixing_coefficient`.

    They are the quantiles i / (count + 1) of the distribution that is uniform on both sides of its
    median, so one sample has exactly the given coefficient.
    """
    median = settings.mixing_coefficient
    quantiles = [i / (settings.count + 1) for i in range(1, settings.count + 1)]
    return [2 * q * median if q <= 0.5 else median + (2 * q - 1) * (1 - median) for q in quantiles]


def interpolated_logits(clean: Tensor, boundary: Tensor, mixing_coefficient: float) -> Tensor:
    """Mix the logits of clean images and boundary samples, [n, K] each (eq. 6)."""
    return mixing_coefficient * clean + (1 - mixing_coefficient) * boundary


def interpolated_samples(
    classifier: Classifier, images: Tensor, target_logits: Tensor, settings: InterpolationSettings
) -> Tensor:
    """Move images until their logits match the interpolated ones (eq. 7).

    Minimises the mean squared error of each image's logits by Adam on its pixels, started at the
    image and projected onto [0,1] after each step. `published` mode does what the published code
    does: one step, then the floor to 8 bits.

    Args:
        classifier: on the images' device.
        images: float32 [n, C, H, W] in [0,1].
        target_logits: [n, K].
        settings: steps, learning rate and mode.

    Returns:
        float32 [n, C, H, W] in [0,1].
    """
    published = settings.mode == "published"
    pixels = images.clone().requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=settings.learning_rate, betas=_ADAM_BETAS)
    for _ in range(1 if published else settings.steps):
        optimizer.zero_grad()
        # Summed over images, so that none depends on how many others are optimised with it.
        per_image = F.mse_loss(classifier(pixels), target_logits, reduction="none").mean(1)
        per_image.sum().backward()
        optimizer.step()
        with torch.no_grad():
            # In place: the optimiser must keep holding the tensor that the next step moves.
            pixels.clamp_(0, 1)
    moved = pixels.detach()
    return (moved * 255).floor() / 255 if published else moved
