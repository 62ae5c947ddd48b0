"""Losses of the denoiser, one function an equation, and the objectives that they make up.

B batch, K classes, F features. Logits and features are the frozen classifier's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from decrop.classifiers.feature_maps import Outputs
from decrop.config import DistillationSettings, KernelSettings, LossWeights, TrainingSettings
from decrop.config.training import AdversarialSettings
from decrop.networks.discriminator import Discriminator, reverse_gradient
from decrop.training.adversarial import smoothed_adversaries

_PUBLISHED_KERNEL = KernelSettings()


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


def maximum_mean_discrepancy(
    first: Tensor, second: Tensor, settings: KernelSettings = _PUBLISHED_KERNEL
) -> Tensor:
    """Squared MMD of two feature samples [m, F] and [n, F]; one term of DE-CROP eq. 10.

    The biased estimate (Gretton et al. 2012, eq. 5), by default with the published kernel: a sum of
    five RBF kernels exp(-|u-v|^2 / w), w = 2^-2 ... 2^2 times the mean squared distance over
    distinct pairs of the joint sample, which is constant in the gradient. Zero for equal samples.
    """
    kernel = _kernel(torch.cat([first, second]), settings)
    m = len(first)
    return kernel[:m, :m].mean() + kernel[m:, m:].mean() - 2 * kernel[:m, m:].mean()


def _kernel(joint: Tensor, settings: KernelSettings) -> Tensor:
    """Return the kernel of each pair of a joint sample [n, F], [n, n]."""
    if settings.kind == "linear":
        return joint @ joint.T
    factors, of_distance = settings.bandwidth_factors, _KERNELS[settings.kind]
    squared, width = _squared_distances(joint, factors)
    return torch.stack([of_distance(squared / (width * factor)) for factor in factors]).sum(0)


def _squared_distances(joint: Tensor, factors: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    squared = (joint[:, None] - joint[None, :]).square().sum(2)
    pairs = len(joint) * (len(joint) - 1)
    # Where all points coincide; not so small that the slope of the narrowest kernel overflows.
    smallest = torch.finfo(squared.dtype).tiny * 2 / min(factors)
    return squared, (squared.detach().sum() / pairs).clamp_min(smallest)


# Of the squared distance, divided by the bandwidth.
_KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "rbf": lambda scaled: torch.exp(-scaled),
    "inverse_multiquadric": lambda scaled: 1 / (1 + scaled),
}


def domain_loss(clean_scores: Tensor, denoised_scores: Tensor) -> Tensor:
    """Binary cross-entropy of scores [B] of the domain, clean 1 and denoised 0 (DE-CROP eq. 11).

    The mean over all rows of both domains, as in the published code.
    """
    domains = torch.cat([torch.ones_like(clean_scores), torch.zeros_like(denoised_scores)])
    return F.binary_cross_entropy_with_logits(torch.cat([clean_scores, denoised_scores]), domains)


def squared_error(denoised: Tensor, clean: Tensor) -> Tensor:
    """Mean squared error of denoised images [B, C, H, W] to the clean ones.

    The MSE objective of denoised smoothing (Salman et al. 2020, eq. 6).
    """
    return F.mse_loss(denoised, clean)


def softened_divergence(
    denoised_logits: Tensor, clean_logits: Tensor, temperature: float
) -> Tensor:
    """Divergence of the softmax of denoised logits from that of clean ones, [B, K] each.

    T^2 KL(softmax(clean / T) || softmax(denoised / T)), the mean over images, whose gradient does
    not vanish as the temperature T grows (Hinton et al. 2015, section 2). Not negative.
    """
    denoised = F.log_softmax(denoised_logits / temperature, dim=1)
    clean = F.log_softmax(clean_logits / temperature, dim=1)
    return temperature**2 * F.kl_div(denoised, clean, reduction="batchmean", log_target=True)


def squared_logit_error(denoised_logits: Tensor, clean_logits: Tensor) -> Tensor:
    """Mean squared error of denoised logits [B, K] to clean ones (Ba and Caruana 2014, eq. 1)."""
    return F.mse_loss(denoised_logits, clean_logits)


def feature_map_error(denoised: Sequence[Tensor], clean: Sequence[Tensor]) -> Tensor:
    """Squared error of feature maps [B, C, H, W], over the mean square of the clean ones.

    The mean over stages. A hint of FitNets (Romero et al. 2015, eq. 3) without its regressor, as
    both maps are of one network; so scaled that every stage counts alike. Zero for equal maps.
    """
    errors = [
        F.mse_loss(one, other) / other.square().mean().clamp_min(torch.finfo(other.dtype).tiny)
        for one, other in zip(denoised, clean, strict=True)
    ]
    return torch.stack(errors).mean()


def distillation_loss(denoised: Outputs, clean: Outputs, settings: DistillationSettings) -> Tensor:
    """Distance of what the classifier makes of denoised images from what it makes of clean ones."""
    if settings.loss == "feature_maps":
        return feature_map_error(denoised.maps, clean.maps)
    if settings.loss == "mse":
        return squared_logit_error(denoised.logits, clean.logits)
    return softened_divergence(denoised.logits, clean.logits, settings.temperature)


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
    generated_label_consistency: Tensor | None = None
    distillation: Tensor | None = None
    prior_squared_error: Tensor | None = None
    prior_distillation: Tensor | None = None


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
        (weights.generated_label_consistency, terms.generated_label_consistency),
        (weights.distillation, terms.distillation),
        (weights.prior_squared_error, terms.prior_squared_error),
        (weights.prior_distillation, terms.prior_distillation),
    )
    return torch.stack([weight * term for weight, term in weighted if term is not None]).sum()


@dataclass(frozen=True)
class View:
    """Generated samples of the images of a step.

    Attributes:
        images: float32 [B, C, H, W] in [0,1].
        noise: [B, C, H, W].
        weight: of their terms in sums over views.
        used: bool [B], samples that count; all if None.
    """

    images: Tensor
    noise: Tensor
    weight: float
    used: Tensor | None = None


@dataclass(frozen=True)
class PriorImages:
    """Generated images of a step, which are not of the data.

    Attributes:
        images: float32 [B, C, H, W] in [0,1].
        noise: [B, C, H, W].
        sigma: [B], standard deviation of the noise of each image.
    """

    images: Tensor
    noise: Tensor
    sigma: Tensor


@dataclass(frozen=True)
class Batch:
    """Images of one step with their noise, each in it `draws` times with other noise.

    Attributes:
        clean: float32 [B, C, H, W] in [0,1], in `draws` equal parts.
        noise: [B, C, H, W], of the clean images.
        sigma: [B], standard deviation of the noise of each image in all its views.
        generated: views of the same images, row by row.
        clean_outputs: of the classifier for `clean`, where they are known already.
        draws: noise draws of each image.
        prior: generated images beside them, or None.
    """

    clean: Tensor
    noise: Tensor
    sigma: Tensor
    generated: tuple[View, ...] = ()
    clean_outputs: Outputs | None = None
    draws: int = 1
    prior: PriorImages | None = None


@dataclass(frozen=True)
class Networks:
    """What the objectives run.

    Attributes:
        denoise: noisy images float32 [B, C, H, W] and the standard deviations of their noise [B] to
            denoised images.
        classify: images float32 [B, C, H, W] to outputs of the frozen classifier, float32.
    """

    denoise: Callable[[Tensor, Tensor], Tensor]
    classify: Callable[[Tensor], Outputs]
    discriminator: Discriminator


def with_adversarial_noise(
    batch: Batch, networks: Networks, settings: AdversarialSettings
) -> Batch:
    """Return the batch with adversarial perturbations of the clean images added to their noise.

    What maximises the cross-entropy of the smoothed classifier to the label of the clean image is
    added to all noise draws of an image (SmoothAdv, Salman et al. 2019, eq. 6), which there trains
    a classifier. Generated samples keep their noise.
    """
    clean_outputs = _clean_outputs(batch, networks)
    noise: Tensor = batch.noise.unflatten(0, (batch.draws, -1))
    images, labels = (part.chunk(batch.draws)[0] for part in (batch.clean, clean_outputs.logits))

    def classify(noisy: Tensor) -> Tensor:
        outputs = networks.classify(networks.denoise(noisy.flatten(0, 1), batch.sigma))
        return outputs.logits.reshape(*noise.shape[:2], -1)

    adversaries = smoothed_adversaries(
        classify,
        images,
        labels.argmax(1),
        noise,
        epsilon=settings.epsilon,
        steps=settings.steps,
    )
    perturbed = (noise + (adversaries - images)).flatten(0, 1)
    return replace(batch, noise=perturbed, clean_outputs=clean_outputs)


def decrop_terms(
    batch: Batch, networks: Networks, settings: TrainingSettings, reversal_scale: float | None
) -> LossTerms:
    """Return the terms of DE-CROP eq. 12; with a domain loss where there is a `reversal_scale`."""
    clean = _clean_outputs(batch, networks)
    generated, targets, weights = [], [], []
    for view in batch.generated:
        if view.used is None or view.used.any():
            # Left out before the denoiser, where BatchNorm would let them act on the others.
            kept = slice(None) if view.used is None else view.used
            generated.append(((view.images + view.noise)[kept], batch.sigma[kept]))
            targets.append(clean.of_rows(kept))
            weights.append(view.weight)
    # One pass a view, for BatchNorm normalises each by statistics of its own. The clean view goes
    # last: with DnCNN's momentum the running statistics are then its own. The published code goes
    # through clean, boundary and interpolated view, in the second phase after a pass of the clean
    # one for the discriminator, so its running statistics are the interpolated view's.
    noisy = [*generated, (batch.clean + batch.noise, batch.sigma)]
    denoised = [networks.denoise(images, sigma) for images, sigma in noisy]
    # The classifier normalises by fixed statistics, so one pass does for all views.
    *views, outputs = networks.classify(torch.cat(denoised)).split([len(d) for d in denoised])

    def summed(loss: Callable[[Outputs, Outputs], Tensor]) -> Tensor:
        found = clean.logits.new_zeros(())
        for weight, view, target in zip(weights, views, targets, strict=True):
            found = found + weight * loss(view, target)
        return found

    domain = None
    if reversal_scale is not None:
        joint = torch.cat([clean.features, reverse_gradient(outputs.features, reversal_scale)])
        clean_scores, denoised_scores = networks.discriminator(joint).chunk(2)
        domain = domain_loss(clean_scores, denoised_scores)
    generated_consistency = None
    if settings.loss_weights.generated_label_consistency:
        generated_consistency = summed(
            lambda view, target: label_consistency_loss(view.logits, target.logits)
        )
    distillation = _distillation(outputs, clean, settings)
    if distillation is not None and settings.distillation.views == "all":
        distillation = distillation + summed(
            partial(distillation_loss, settings=settings.distillation)
        )
    return LossTerms(
        label_consistency=label_consistency_loss(outputs.logits, clean.logits),
        cosine_similarity=summed(
            lambda view, target: cosine_similarity(view.logits, target.logits)
        ),
        mmd=summed(
            lambda view, _: maximum_mean_discrepancy(
                view.features, clean.features, settings.mmd_kernel
            )
        ),
        domain=domain,
        generated_label_consistency=generated_consistency,
        distillation=distillation,
    )


def prior_terms(
    prior: PriorImages, networks: Networks, settings: TrainingSettings
) -> dict[str, Tensor]:
    """Return the terms of generated images by name: squared error, and distillation if weighted."""
    denoised = networks.denoise(prior.images + prior.noise, prior.sigma)
    terms = {"prior_squared_error": squared_error(denoised, prior.images)}
    if settings.loss_weights.prior_distillation:
        with torch.no_grad():
            clean = networks.classify(prior.images)
        outputs = networks.classify(denoised)
        terms["prior_distillation"] = distillation_loss(outputs, clean, settings.distillation)
    return terms


def stability_terms(
    batch: Batch, networks: Networks, settings: TrainingSettings, _: float | None
) -> LossTerms:
    """Return label consistency alone: the stability objective (Salman et al. 2020, eq. 7).

    With distillation where that has a weight.
    """
    clean = _clean_outputs(batch, networks)
    outputs = networks.classify(networks.denoise(batch.clean + batch.noise, batch.sigma))
    return LossTerms(
        label_consistency=label_consistency_loss(outputs.logits, clean.logits),
        distillation=_distillation(outputs, clean, settings),
    )


def mse_terms(batch: Batch, networks: Networks, _: TrainingSettings, __: float | None) -> LossTerms:
    """Return the squared error to the clean images (Salman et al. 2020, eq. 6)."""
    denoised = networks.denoise(batch.clean + batch.noise, batch.sigma)
    return LossTerms(squared_error=squared_error(denoised, batch.clean))


def _distillation(denoised: Outputs, clean: Outputs, settings: TrainingSettings) -> Tensor | None:
    if not settings.loss_weights.distillation:
        return None
    return distillation_loss(denoised, clean, settings.distillation)


def _clean_outputs(batch: Batch, networks: Networks) -> Outputs:
    if batch.clean_outputs is not None:
        return batch.clean_outputs
    with torch.no_grad():
        outputs = networks.classify(batch.clean[: len(batch.clean) // batch.draws])
    return outputs.each(lambda values: values.repeat(batch.draws, *[1] * (values.ndim - 1)))
