"""Losses of the denoiser, one function an equation, and the objectives that they make up.

B batch, K classes, F features. Logits and features are the frozen classifier's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from decrop.config import LossWeights
from decrop.networks.discriminator import Discriminator, reverse_gradient

_KERNEL_EXPONENTS = (-2, -1, 0, 1, 2)


def label_consistency_loss(denoised_logits: Tensor, clean_logits: Tensor) -> Tensor:
    """Cross-entropy of denoised noisy images to the label of the clean ones (DE-CROP eq. 8).

    The equation writes its target on the noisy image; the text and the published code use the clean
    one, as here. Both arguments are [B, K].
    """
    return F.cross_entropy(denoised_logits, clean_logits.argmax(1))


def cosine_similarity(denoised_logits: Tensor, clean_logits: Tensor) -> Tensor:
    """Mean cosine of logits [B, K] of a denoised view to the clean ones; one term of DE-CROP eq. 9.

    Lies in [-1, 1] and is maximised.
    """
    return F.cosine_similarity(denoised_logits, clean_logits, dim=1).mean()


def maximum_mean_discrepancy(first: Tensor, second: Tensor) -> Tensor:
    """Squared MMD of two feature samples [m, F] and [n, F]; one term of DE-CROP eq. 10.

    The biased estimate (Gretton et al. 2012, eq. 5) with the published kernel: a sum of five RBF
    kernels exp(-|u-v|^2 / w), w = 2^-2 ... 2^2 times the mean squared distance over distinct pairs
    of the joint sample, which is constant in the gradient. Zero for equal samples.
    """
    joint = torch.cat([first, second])
    squared = (joint[:, None] - joint[None, :]).square().sum(2)
    pairs = len(joint) * (len(joint) - 1)
    # Where all points coincide; not so small that the slope of the narrowest kernel overflows.
    smallest = torch.finfo(squared.dtype).tiny * 2.0 ** (1 - min(_KERNEL_EXPONENTS))
    width = (squared.detach().sum() / pairs).clamp_min(smallest)
    kernel = torch.stack([torch.exp(-squared / (width * 2.0**e)) for e in _KERNEL_EXPONENTS]).sum(0)
    m = len(first)
    return kernel[:m, :m].mean() + kernel[m:, m:].mean() - 2 * kernel[:m, m:].mean()


def domain_loss(clean_scores: Tensor, denoised_scores: Tensor) -> Tensor:
    """Binary cross-entropy of scores [B] of the domain, clean 1 and denoised 0 (DE-CROP eq. 11)."""
    return F.binary_cross_entropy_with_logits(
        clean_scores, torch.ones_like(clean_scores)
    ) + F.binary_cross_entropy_with_logits(denoised_scores, torch.zeros_like(denoised_scores))


def squared_error(denoised: Tensor, clean: Tensor) -> Tensor:
    """Mean squared error of denoised images [B, C, H, W] to the clean ones.

    The MSE objective of denoised smoothing (Salman et al. 2020, eq. 6).
    """
    return F.mse_loss(denoised, clean)


@dataclass(frozen=True)
class LossTerms:
    """The terms of an objective, scalars; None where it does not have them.

    Those of DE-CROP are in its eq. 12; `domain` only in the phase with the discriminator.
    """

    label_consistency: Tensor | None = None
    cosine_similarity: Tensor | None = None
    mmd: Tensor | None = None
    domain: Tensor | None = None
    squared_error: Tensor | None = None


def total_loss(terms: LossTerms, weights: LossWeights) -> Tensor:
    """Combine the terms into the minimised objective (DE-CROP eq. 12).

    The weight of the domain loss is not applied here: it scales the reversed gradient, so that the
    discriminator itself always learns at full rate.
    """
    weighted = (
        (weights.label_consistency, terms.label_consistency),
        (-weights.cosine, terms.cosine_similarity),
        (weights.mmd, terms.mmd),
        (1.0, terms.domain),
        (1.0, terms.squared_error),
    )
    return torch.stack([weight * term for weight, term in weighted if term is not None]).sum()


@dataclass(frozen=True)
class Batch:
    """Images of one step, float32 in [0,1], and the noise that all views share.

    Attributes:
        clean: [B, C, H, W].
        interpolated: [B, C, H, W], or None where they are not trained on.
        boundary: [B, C, H, W], or None likewise.
        boundary_used: bool [B], boundary samples that count.
        noise: [B, C, H, W].
        sigma: [B], standard deviation of the noise of each image.
        clean_outputs: logits [B, K] and features [B, F] of `clean`, where they are known already.
    """

    clean: Tensor
    interpolated: Tensor | None
    boundary: Tensor | None
    boundary_used: Tensor
    noise: Tensor
    sigma: Tensor
    clean_outputs: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Networks:
    """What the objectives run.

    Attributes:
        denoise: noisy images float32 [B, C, H, W] and the standard deviations of their noise [B] to
            denoised images.
        classify: images float32 [B, C, H, W] to logits [B, K] and features [B, F] of the frozen
            classifier, float32.
        discriminator: of domains.
    """

    denoise: Callable[[Tensor, Tensor], Tensor]
    classify: Callable[[Tensor], tuple[Tensor, Tensor]]
    discriminator: Discriminator


def decrop_terms(batch: Batch, networks: Networks, reversal_scale: float | None) -> LossTerms:
    """Return the terms of DE-CROP eq. 12; with a domain loss where there is a `reversal_scale`."""
    clean_logits, clean_features = _clean_outputs(batch, networks)
    kept = batch.boundary_used
    generated = []
    if batch.interpolated is not None:
        generated.append((batch.interpolated + batch.noise, batch.sigma, clean_logits))
    if batch.boundary is not None and kept.any():
        # Left out before the denoiser, where BatchNorm would let them act on the others.
        noisy = (batch.boundary + batch.noise)[kept]
        generated.append((noisy, batch.sigma[kept], clean_logits[kept]))
    views = [(noisy, sigma) for noisy, sigma, _ in generated]
    views.append((batch.clean + batch.noise, batch.sigma))
    # One pass a view, for BatchNorm normalises each by statistics of its own. The clean view goes
    # last: with DnCNN's momentum the running statistics are then its own, as where the published
    # code runs it once more for the discriminator.
    denoised = [networks.denoise(noisy, sigma) for noisy, sigma in views]
    # The classifier normalises by fixed statistics, so one pass does for all views.
    all_logits, all_features = networks.classify(torch.cat(denoised))
    sizes = [len(view) for view in denoised]
    *generated_logits, logits = all_logits.split(sizes)
    *generated_features, features = all_features.split(sizes)
    cosine, mmd = clean_logits.new_zeros(()), clean_logits.new_zeros(())
    for (*_, targets), view_logits, view_features in zip(
        generated, generated_logits, generated_features, strict=True
    ):
        cosine = cosine + cosine_similarity(view_logits, targets)
        mmd = mmd + maximum_mean_discrepancy(view_features, clean_features)
    domain = None
    if reversal_scale is not None:
        joint = torch.cat([clean_features, reverse_gradient(features, reversal_scale)])
        clean_scores, denoised_scores = networks.discriminator(joint).chunk(2)
        domain = domain_loss(clean_scores, denoised_scores)
    return LossTerms(
        label_consistency=label_consistency_loss(logits, clean_logits),
        cosine_similarity=cosine,
        mmd=mmd,
        domain=domain,
    )


def stability_terms(batch: Batch, networks: Networks, _: float | None) -> LossTerms:
    """Return label consistency alone: the stability objective (Salman et al. 2020, eq. 7)."""
    clean_logits, _features = _clean_outputs(batch, networks)
    logits, _features = networks.classify(networks.denoise(batch.clean + batch.noise, batch.sigma))
    return LossTerms(label_consistency=label_consistency_loss(logits, clean_logits))


def mse_terms(batch: Batch, networks: Networks, _: float | None) -> LossTerms:
    """Return the squared error to the clean images (Salman et al. 2020, eq. 6)."""
    denoised = networks.denoise(batch.clean + batch.noise, batch.sigma)
    return LossTerms(squared_error=squared_error(denoised, batch.clean))


def _clean_outputs(batch: Batch, networks: Networks) -> tuple[Tensor, Tensor]:
    if batch.clean_outputs is not None:
        return batch.clean_outputs
    with torch.no_grad():
        return networks.classify(batch.clean)
