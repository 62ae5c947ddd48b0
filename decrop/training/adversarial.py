"""Adversarial examples of smoothed classifiers.

Logits are [N, B, K]: N noise samples of B images, K classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from decrop.training.classifier_losses import runner_up_cross_entropy, smoothed_log_probabilities


def attack_objective(logits: Tensor, labels: Tensor, regularisation_weight: float) -> Tensor:
    """Return for each image what an attack on the smoothed classifier maximises, [B].

    Feng et al. 2020, eq. 12; with weight 0 SmoothAdv's (Salman et al. 2019, eq. 6).

    Args:
        logits: float [N, B, K].
        labels: int64 [B].
        regularisation_weight: lambda.
    """
    log_probabilities = smoothed_log_probabilities(logits)
    loss = F.nll_loss(log_probabilities, labels, reduction="none")
    return loss - regularisation_weight * runner_up_cross_entropy(log_probabilities, labels)


def smoothed_adversaries(
    classify: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    noise: Tensor,
    *,
    epsilon: float,
    steps: int,
    regularisation_weight: float = 0.0,
) -> Tensor:
    """Ascend the attack's objective inside an L2 ball around each image; return images [B, ...].

    Projected gradient ascent from the image itself, all steps under the same noise, each
    2 epsilon / steps long along the gradient (Feng et al. 2020, eq. 13 and section Experiments;
    Salman et al. 2019). Eq. 13 is written without dividing by the gradient's norm, which the
    length of a step implies. As there, nothing is clipped to [0,1]. Where the gradient is zero an
    image stays.

    Args:
        classify: noisy images [N, B, ...] to logits [N, B, K].
        images: floats [B, ...] in [0,1].
        labels: int64 [B].
        noise: float [N, B, ...].
        epsilon: bound of the L2 norm, in [0,1] pixels.
        steps: of the ascent.
        regularisation_weight: lambda of the objective.
    """
    step = 2 * epsilon / steps
    perturbation = torch.zeros_like(images)
    for _ in range(steps):
        perturbation.requires_grad_()
        logits = classify(images + perturbation + noise)
        objective = attack_objective(logits, labels, regularisation_weight)
        (gradient,) = torch.autograd.grad(objective.sum(), perturbation)
        direction = gradient / _norms(gradient).clamp(min=torch.finfo(gradient.dtype).tiny)
        perturbation = perturbation.detach() + step * direction
        perturbation = perturbation * (epsilon / _norms(perturbation)).clamp(max=1)
    return images + perturbation


def _norms(batch: Tensor) -> Tensor:
    """Return the L2 norm of each row, [B, 1, ...]."""
    norms: Tensor = torch.linalg.vector_norm(batch, dim=tuple(range(1, batch.ndim)), keepdim=True)
    return norms
