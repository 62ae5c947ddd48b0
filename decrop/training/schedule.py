"""Schedules of trainings: optimiser and learning rate of each step."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import nn

from decrop.config import ClassifierTrainingSettings, TrainingSettings
from decrop.config.rejector import RejectorSettings

OptimizerKind = Literal["adam", "sgd"]
# Of the denoiser: 0 squared error, 1 the objective, 2 with the discriminator.
Phase = Literal[0, 1, 2]


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


def denoiser_schedule(settings: TrainingSettings, images: int) -> Schedule:
    """Return the schedule of the denoiser's phases, each of which begins it anew."""
    steps = steps_an_epoch(images, settings.batch_size)
    of_phase = [settings.of_phase(phase) for phase in (0, 1, 2)]

    def optimizer(epoch: int) -> tuple[int, OptimizerKind]:
        phase, epoch = phase_and_epoch(settings, epoch)
        kind = of_phase[phase].optimizer
        if kind == "adam_then_sgd":
            return phase, "adam" if epoch < settings.adam_epochs else "sgd"
        return phase, "sgd" if kind == "sgd" else "adam"

    def learning_rate(step: int) -> float:
        phase, epoch = phase_and_epoch(settings, step // steps)
        own = of_phase[phase]
        if own.optimizer != "one_cycle":
            return dropped_rate(own, epoch)
        rates = one_cycle_rates(own.learning_rate, settings.phase_epochs[phase] * steps)
        return rates[epoch * steps + step % steps]

    return Schedule(
        sum(settings.phase_epochs) * steps,
        steps,
        optimizer,
        learning_rate,
        weight_decay=settings.weight_decay,
        gradient_norm=settings.gradient_norm,
    )


def phase_and_epoch(settings: TrainingSettings, epoch: int) -> tuple[Phase, int]:
    """Return the phase of an epoch of the denoiser's training, and its number there, from 0."""
    squared_error, objective, _ = settings.phase_epochs
    if epoch < squared_error:
        return 0, epoch
    if epoch < squared_error + objective:
        return 1, epoch - squared_error
    return 2, epoch - squared_error - objective


def reversal_scale(settings: TrainingSettings, progress: float) -> float:
    """Scale of the reversed gradient at `progress` in [0,1] of the discriminator's phase.

    beta 4 times w times the ramp 2 / (1 + exp(-10 p)) - 1 (Ganin and Lempitsky 2015, section 4).
    """
    ramp = 2 / (1 + math.exp(-10 * progress)) - 1
    return settings.loss_weights.discriminator * settings.discriminator.reversal_scale * ramp
