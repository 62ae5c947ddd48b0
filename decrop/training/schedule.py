"""What the optimiser does in which epoch of a phase, and how hard the discriminator pushes."""

import math
from collections.abc import Iterable
from functools import cache
from typing import Literal, Protocol

import torch
from torch import nn

from decrop.config import TrainingSettings

OptimizerKind = Literal["adam", "sgd"]
_SGD_MOMENTUM = 0.9


def optimizer_kind(settings: TrainingSettings, epoch: int) -> OptimizerKind:
    """Name the optimiser of an epoch of a phase, counted from 0."""
    if settings.optimizer == "adam_then_sgd":
        return "adam" if epoch < settings.adam_epochs else "sgd"
    return "adam" if settings.optimizer == "one_cycle" else settings.optimizer


def learning_rates(
    settings: TrainingSettings, epoch: int, *, phase_epochs: int, steps: int
) -> list[float]:
    """Return the learning rate of each step of an epoch of a phase.

    Args:
        settings: schedule.
        epoch: of the phase, counted from 0.
        phase_epochs: epochs of the phase.
        steps: of an epoch.
    """
    if settings.optimizer == "one_cycle":
        rates = one_cycle_rates(settings.learning_rate, phase_epochs * steps)
        return rates[epoch * steps : (epoch + 1) * steps]
    return [dropped_rate(settings, epoch)] * steps


class Drops(Protocol):
    """A learning rate that drops by a factor after each so many epochs."""

    @property
    def learning_rate(self) -> float:
        """At first."""
        ...

    @property
    def learning_rate_drop_every(self) -> int:
        """Epochs between drops."""
        ...

    @property
    def learning_rate_drop_factor(self) -> float:
        """Of a drop."""
        ...


def dropped_rate(settings: Drops, epoch: int) -> float:
    """Return the learning rate of an epoch, counted from 0."""
    drops = epoch // settings.learning_rate_drop_every
    return settings.learning_rate * settings.learning_rate_drop_factor**drops


def build_optimizer(
    settings: TrainingSettings, kind: OptimizerKind, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """Make a fresh optimiser; its learning rate is set anew in each step."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if kind == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
    return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=_SGD_MOMENTUM)


@cache
def one_cycle_rates(peak: float, steps: int) -> list[float]:
    """Return the learning rate of each step, of Smith and Topin 2018 as PyTorch schedules them."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    # PyTorch's schedule has no room for fewer than a handful of steps.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=peak, total_steps=max(steps, 4), cycle_momentum=False
    )
    rates = []
    for _ in range(steps):
        rates.append(float(schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    return rates


def reversal_scale(settings: TrainingSettings, progress: float) -> float:
    """Scale of the reversed gradient at `progress` in [0,1] of the discriminator's phase.

    beta 4 times w times the ramp 2 / (1 + exp(-10 p)) - 1 (Ganin and Lempitsky 2015, section 4).
    """
    ramp = 2 / (1 + math.exp(-10 * progress)) - 1
    return settings.loss_weights.discriminator * settings.discriminator.reversal_scale * ramp
