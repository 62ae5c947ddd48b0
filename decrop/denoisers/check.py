"""Checks of a denoiser by its contract, before anything is computed with it."""

import math
import warnings

import torch
from torch import Tensor, nn

from decrop.config import DenoiserSettings, TrialConfig
from decrop.errors import InputError, one_line
from decrop.seeds import torch_generator
from decrop.smoothing.noise import as_pixels

# Relative to the largest: batched kernels may give other last bits to other rows.
_TOLERANCE = 1e-3
_WITH_CONTRACT = ("factory", "program", "deepinv")


@torch.no_grad()
def check_denoiser(
    denoiser: nn.Module, settings: DenoiserSettings, images: Tensor, sigma: float
) -> None:
    """Run a denoiser that is trained already on noisy images; warn where it makes them worse.

    Args:
        denoiser: on the CPU, in eval mode.
        images: clean, [B, C, H, W], B >= 3, uint8 or in [0,1].
        sigma: standard deviation of the noise, in [0,1] pixels.

    Raises:
        InputError: it fails, returns another shape, numbers that are not finite, or something that
            depends on the other images of a batch.
    """
    clean = as_pixels(images)
    noise = torch.randn(clean.shape, generator=torch_generator(0, "trial of a denoiser"))
    noisy = clean + sigma * noise
    blamed = f"denoiser.source: {settings.source}"
    first = _denoised(denoiser, noisy, blamed)
    if not torch.isfinite(first).all():
        raise InputError(f"{blamed} returns numbers that are not finite.")
    again = _denoised(denoiser, noisy[[0, -1]], blamed)
    if not ((first[0] - again[0]).abs() <= _TOLERANCE * first.abs().max()).all():
        raise InputError(
            f"{blamed} denoises an image in another way when others stand beside it, or when it is "
            "asked again (BatchNorm by the batch, or dropout?); only a fixed function of each "
            "image can be certified."
        )
    before, after = psnr(noisy, clean), psnr(first, clean)
    # Of others the contract is known, and DE-CROP's denoisers are not trained for such images.
    if after < before and settings.form.name in _WITH_CONTRACT:
        warnings.warn(
            f"{blamed} makes images worse: PSNR {after:.1f} dB, and {before:.1f} dB without it, at "
            f"sigma {sigma:g}; does denoiser.contract say how it takes and returns images?",
            stacklevel=2,
        )


def check_sigma(settings: DenoiserSettings, sigma: float) -> None:
    """Warn where a denoiser is told of more or less noise than it was trained for."""
    made_for = settings.made_for
    if made_for is not None and not made_for[0] <= sigma <= made_for[1]:
        warnings.warn(
            f"denoiser.source: {settings.source} was trained for sigma from {made_for[0]:.3g} to "
            f"{made_for[1]:.3g}; sigma is {sigma:g}, beyond which it may do worse than none.",
            stacklevel=2,
        )


def check_trained_sigma(config: TrialConfig, sigma: float) -> None:
    """Warn where a trained denoiser meets more or less noise than it was trained with."""
    trained = config.training.sigma or config.sigma
    low, high = trained if isinstance(trained, tuple) else (trained, trained)
    if config.trains == "denoiser" and not low <= sigma <= high:
        with_noise = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        warnings.warn(
            f"the denoiser was trained with noise of sigma {with_noise}; at {sigma:g} its "
            "certificates hold, but radii may be small.",
            stacklevel=2,
        )


def psnr(images: Tensor, clean: Tensor) -> float:
    """Return the mean peak signal-to-noise ratio of images [B, C, H, W] in [0,1] pixels, in dB."""
    errors = (images - clean).square().flatten(1).mean(dim=1).clamp(min=1e-12)
    return float((-10 * errors.log10()).mean()) if len(errors) else math.nan


def _denoised(denoiser: nn.Module, images: Tensor, blamed: str) -> Tensor:
    try:
        found = denoiser(images)
    except Exception as error:  # a network of somebody else's may raise anything
        raise InputError(
            f"{blamed} fails on images [{', '.join(map(str, images.shape))}] "
            f"({type(error).__name__}: {one_line(str(error), 300)}); "
            "denoiser.contract says how it takes them."
        ) from error
    if not isinstance(found, Tensor) or found.shape != images.shape:
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"{blamed} returns {shape} for images {list(images.shape)}; it must return images of "
            "the same shape."
        )
    return found
