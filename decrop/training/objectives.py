"""Objectives of a step of training: DE-CROP's, and those of denoised smoothing."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from decrop.networks.discriminator import Discriminator, reverse_gradient
from decrop.training.losses import (
    LossTerms,
    cosine_similarity,
    domain_loss,
    label_consistency_loss,
    maximum_mean_discrepancy,
    squared_error,
)


@dataclass(frozen=True)
class Batch:
    """Images of one step, float32 in [0,1], and the noise that all views share.

    Attributes:
        clean: [B, C, H, W].
        interpolated: [B, C, H, W], or None where they are not trained on.
        boundary: [B, C, H, W], or None likewise.
        boundary_used: bool [B], boundary samples that count.
        noise: [B, C, H, W].
        clean_outputs: logits [B, K] and features [B, F] of `clean`, where they are known already.
    """

    clean: Tensor
    interpolated: Tensor | None
    boundary: Tensor | None
    boundary_used: Tensor
    noise: Tensor
    clean_outputs: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Networks:
    """What the objectives run.

    Attributes:
        denoise: noisy images float32 [B, C, H, W] to denoised ones.
        classify: images float32 [B, C, H, W] to logits [B, K] and features [B, F] of the frozen
            classifier, float32.
        discriminator: of domains.
    """

    denoise: Callable[[Tensor], Tensor]
    classify: Callable[[Tensor], tuple[Tensor, Tensor]]
    discriminator: Discriminator


def decrop_terms(batch: Batch, networks: Networks, reversal_scale: float | None) -> LossTerms:
    """Return the terms of DE-CROP eq. 12; with a domain loss where there is a `reversal_scale`."""
    clean_logits, clean_features = _clean_outputs(batch, networks)
    kept = batch.boundary_used
    generated = []
    if batch.interpolated is not None:
        generated.append((batch.interpolated + batch.noise, clean_logits))
    if batch.boundary is not None and kept.any():
        # Left out before the denoiser, where BatchNorm would let them act on the others.
        generated.append(((batch.boundary + batch.noise)[kept], clean_logits[kept]))
    noisy = [view for view, _ in generated] + [batch.clean + batch.noise]
    # One pass a view, for BatchNorm normalises each by statistics of its own. The clean view goes
    # last: with DnCNN's momentum the running statistics are then its own, as where the published
    # code runs it once more for the discriminator.
    denoised = [networks.denoise(view) for view in noisy]
    # The classifier normalises by fixed statistics, so one pass does for all views.
    all_logits, all_features = networks.classify(torch.cat(denoised))
    sizes = [len(view) for view in denoised]
    *generated_logits, logits = all_logits.split(sizes)
    *generated_features, features = all_features.split(sizes)
    cosine, mmd = clean_logits.new_zeros(()), clean_logits.new_zeros(())
    for (_, targets), view_logits, view_features in zip(
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
    logits, _features = networks.classify(networks.denoise(batch.clean + batch.noise))
    return LossTerms(label_consistency=label_consistency_loss(logits, clean_logits))


def mse_terms(batch: Batch, networks: Networks, _: float | None) -> LossTerms:
    """Return the squared error to the clean images (Salman et al. 2020, eq. 6)."""
    denoised = networks.denoise(batch.clean + batch.noise)
    return LossTerms(squared_error=squared_error(denoised, batch.clean))


def _clean_outputs(batch: Batch, networks: Networks) -> tuple[Tensor, Tensor]:
    if batch.clean_outputs is not None:
        return batch.clean_outputs
    with torch.no_grad():
        return networks.classify(batch.clean)
