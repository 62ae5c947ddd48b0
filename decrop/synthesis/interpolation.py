"""Interpolated samples (DE-CROP, eqs. 6 and 7)."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from decrop.classifiers.classifier import Classifier
from decrop.config import InterpolationSettings
from decrop.errors import InputError
from decrop.seeds import numpy_generator

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


def same_class_partners(labels: Tensor, held_out: Tensor, *, seed: int) -> Tensor:
    """Choose a random other image of its class for each image, DE-CROP's ablation without eq. 5.

    An image to train on gets another one to train on, so that nothing held out enters training.

    Args:
        labels: int64 [n].
        held_out: bool [n], the images kept out of training.

    Returns:
        int64 [n], the partners' positions.
    """
    generator = numpy_generator(seed, "interpolation partners")
    classes, held = labels.cpu().numpy(), held_out.cpu().numpy()
    partners = np.empty(len(classes), dtype=np.int64)
    for position, label in enumerate(classes):
        allowed = (classes == label) & (held[position] | ~held)
        allowed[position] = False
        if not allowed.any():
            raise InputError(
                f"interpolation.partner same_class: class {label} has 1 image to train on and "
                "needs 2; raise limited.fraction, or use partner boundary."
            )
        partners[position] = generator.choice(np.flatnonzero(allowed))
    return torch.from_numpy(partners)


def interpolated_logits(clean: Tensor, partner: Tensor, mixing_coefficient: float) -> Tensor:
    """Mix the logits of clean images and of their partners, [n, K] each (DE-CROP eq. 6)."""
    return mixing_coefficient * clean + (1 - mixing_coefficient) * partner


def relative_logit_errors(reached: Tensor, target: Tensor) -> Tensor:
    """Divide the L2 distance of logits [n, K] from their targets [n, K] by the targets' norms, [n].

    0 where a target is reached.
    """
    smallest = torch.finfo(target.dtype).tiny
    distances: Tensor = torch.linalg.vector_norm(reached - target, dim=1)
    norms: Tensor = torch.linalg.vector_norm(target, dim=1)
    return distances / norms.clamp_min(smallest)


def interpolated_samples(
    classifier: Classifier, images: Tensor, target_logits: Tensor, settings: InterpolationSettings
) -> Tensor:
    """Move images until their logits match the interpolated ones (DE-CROP eq. 7).

    Minimises the mean squared error of each image's logits by Adam on its pixels, started at the
    image and projected onto [0,1] after each step. `published` mode does what the published code
    does: one step, then the floor to 8 bits.

    Every image takes all its steps. The published rule, to stop once the loss changes by less than
    1e-3, is left out: it depends on the scale of the logits, it stops where the loss moves slowly
    rather than where the target is reached (see `relative_logit_errors`), and `steps` bounds the
    work already. It makes no difference to `published` mode, where only the first step moves.

    Args:
        classifier: on the images' device.
        images: float32 [n, C, H, W] in [0,1].
        target_logits: [n, K].

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
    return floored_to_8_bits(moved) if published else moved


def floored_to_8_bits(images: Tensor) -> Tensor:
    """Round pixels in [0,1] down to multiples of 1/255, as the published loader does."""
    return (images * 255).floor() / 255
