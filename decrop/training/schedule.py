"""Schedules of trainings: optimiser and learning rate of each step."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import nn

from decrop.config import ClassifierTrainingSettings, TrainingSettings
from decrop.config.rejector import RejectorSettings

OptimizerKind = Literal["adam", "sgd"]


@dataclass(frozen=True)
class Schedule:
    """How long a network is trained and by what.

    Attributes:
        steps: in all.
        steps_an_epoch: of each epoch; the last one may be shorter.
        optimizer: phase and optimiser of an epoch, counted from 0; each begins with a fresh one.
        learning_rate: of a step, counted from 0.
        weight_decay: L2.
        momentum: of SGD.
        gradient_norm: largest L2 norm of the gradient of all weights, to which a larger one is
            scaled down; 0 for none.
    """

    steps: int
    steps_an_epoch: int
    optimizer: Callable[[int], tuple[int, OptimizerKind]]
    learning_rate: Callable[[int], float]
    weight_decay: float = 0.0
    momentum: float = 0.9
    gradient_norm: float = 0.0

    def begins_anew(self, epoch: int) -> bool:
        """Tell whether an epoch has another optimiser than the one before it."""
        return epoch > 0 and self.optimizer(epoch) != self.optimizer(epoch - 1)


def steps_an_epoch(images: int, batch_size: int) -> int:
    """Return the steps in which each of `images` is taken once."""
    return -(-images // batch_size)


def dropped_rate(
    settings: TrainingSettings | ClassifierTrainingSettings | RejectorSettings, epoch: int
) -> float:
    """Return the learning rate of an epoch, counted from 0."""
    drops = epoch // settings.learning_rate_drop_every
    return settings.learning_rate * settings.learning_rate_drop_factor**drops


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


def build_optimizer(
    schedule: Schedule, epoch: int, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """Make a fresh optimiser of an epoch; its learning rate is set in each step."""
    decay = schedule.weight_decay
    if schedule.optimizer(epoch)[1] == "adam":
        return torch.optim.Adam(parameters, weight_decay=decay)
    return torch.optim.SGD(parameters, weight_decay=decay, momentum=schedule.momentum)
