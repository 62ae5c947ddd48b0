"""Losses of classifiers under noise: cross-entropy, ADRE's regulariser, adversarial examples.

Logits are [N, B, K]: N noise samples of B images, K classes.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from decrop.config.classifier_training import ClassifierTrainingSettings

# The regulariser rewards a runner-up of vanishing probability without end; below this one not.
PROBABILITY_FLOOR = 1e-6


def perturbed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy's mean over images and their noise samples.

    Feng et al. 2020, eq. 7; with one sample the loss of Cohen et al. 2019. With probabilities in
    place of labels it is the Kullback-Leibler divergence from them, but for a constant.

    Args:
        logits: float [N, B, K].
        labels: int64 [B], or probabilities float [B, K].
    """
    targets = labels.expand(len(logits), *labels.shape).flatten(0, 1)
    return F.cross_entropy(logits.flatten(0, 1), targets)


def smoothed_log_probabilities(logits: Tensor) -> Tensor:
    """Return the log of the mean softmax over noise samples, [B, K] (Feng et al. 2020, eq. 8).

    In log space, where no probability underflows.

    Args:
        logits: float [N, B, K].
    """
    return logits.log_softmax(2).logsumexp(0) - math.log(len(logits))


def runner_up_cross_entropy(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return minus the log probability of the likeliest class but the true one, [B].

    The loss of ADRE's regulariser (Feng et al. 2020, eq. 6, P_i): large where the smoothed
    classifier is right by far, small where it is wrong by far. It stops growing where the
    probability falls below `PROBABILITY_FLOOR`, which the paper leaves open.

    Args:
        log_probabilities: of the smoothed classifier, float [B, K].
        labels: int64 [B].
    """
    others = log_probabilities.scatter(1, labels[:, None], -torch.inf)
    return -others.max(dim=1).values.clamp(min=math.log(PROBABILITY_FLOOR))


def loss_terms(
    logits: Tensor, labels: Tensor, settings: ClassifierTrainingSettings
) -> dict[str, Tensor]:
    """Return the loss as `total`, its cross-entropy, and that of the runner-up if it has one.

    Feng et al. 2020, eq. 5; without its regulariser the loss of Cohen et al. 2019.

    Args:
        logits: float [N, B, K].
        labels: int64 [B]; without regulariser also probabilities, float [B, K].
    """
    # The noise samples are exchangeable, so the first is as random as any.
    used = logits if settings.cross_entropy_samples == "all" else logits[:1]
    cross_entropy = perturbed_cross_entropy(used, labels)
    weight = settings.effective_regularisation_weight
    if not weight:
        return {"cross_entropy": cross_entropy, "total": cross_entropy}
    runner_up = runner_up_cross_entropy(smoothed_log_probabilities(logits), labels).mean()
    return {
        "cross_entropy": cross_entropy,
        "runner_up": runner_up,
        "total": cross_entropy - weight * runner_up,
    }


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
    settings: ClassifierTrainingSettings,
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
        settings: bound epsilon of the L2 norm, in [0,1] pixels, steps, and lambda of the objective.
    """
    epsilon = settings.attack_epsilon
    step = 2 * epsilon / settings.attack_steps
    perturbation = torch.zeros_like(images)
    for _ in range(settings.attack_steps):
        perturbation.requires_grad_()
        logits = classify(images + perturbation + noise)
        weight = settings.effective_regularisation_weight
        objective = attack_objective(logits, labels, weight)
        (gradient,) = torch.autograd.grad(objective.sum(), perturbation)
        direction = gradient / _norms(gradient).clamp(min=torch.finfo(gradient.dtype).tiny)
        perturbation = perturbation.detach() + step * direction
        perturbation = perturbation * (epsilon / _norms(perturbation)).clamp(max=1)
    return images + perturbation


def _norms(batch: Tensor) -> Tensor:
    """Return the L2 norm of each row, [B, 1, ...]."""
    norms: Tensor = torch.linalg.vector_norm(batch, dim=tuple(range(1, batch.ndim)), keepdim=True)
    return norms
