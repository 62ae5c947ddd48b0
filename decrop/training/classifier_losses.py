"""Losses of classifiers under noise: cross-entropy and ADRE's regulariser.

Logits are [N, B, K]: N noise samples of B images, K classes.
"""

import math

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
