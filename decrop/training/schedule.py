"""What the optimiser does in which epoch of a phase, and how hard the discriminator pushes."""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from decrop.config import TrainingSettings

OptimizerKind = Literal["adam", "sgd"]
_SGD_MOMENTUM = 0.9


def optimizer_kind(settings: TrainingSettings, epoch: int) -> OptimizerKind:
    """Name the optimiser of an epoch of a phase, counted from 0."""
    if settings.optimizer == "adam_then_sgd":
        return "adam" if epoch < settings.adam_epochs else "sgd"
    return settings.optimizer


def learning_rate(settings: TrainingSettings, epoch: int) -> float:
    """Return the learning rate of an epoch of a phase, counted from 0."""
    drops = epoch // settings.learning_rate_drop_every
    return settings.learning_rate * settings.learning_rate_drop_factor**drops


def build_optimizer(
    settings: TrainingSettings, kind: OptimizerKind, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """Make a fresh optimiser; its learning rate is set anew in each epoch."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if kind == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
    return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=_SGD_MOMENTUM)


def reversal_scale(settings: TrainingSettings, progress: float) -> float:
    """Scale of the reversed gradient at `progress` in [0,1] of the discriminator's phase.

    beta 4 times w times the ramp 2 / (1 + exp(-10 p)) - 1 (Ganin and Lempitsky 2015, section 4).
    """
    ramp = 2 / (1 + math.exp(-10 * progress)) - 1
    return settings.loss_weights.discriminator * settings.discriminator.reversal_scale * ramp
