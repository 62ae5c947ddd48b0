"""Learning rate, optimiser and gradient reversal, epoch by epoch."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from decrop.config import TrainingSettings
from decrop.training.schedule import Schedule, build_optimizer, denoiser_schedule, reversal_scale


def settings(**given: Any) -> TrainingSettings:
    return TrainingSettings.model_validate(given)


def rates(given: TrainingSettings, *, steps: int = 1) -> list[float]:
    """Learning rates of a training in so many steps an epoch."""
    schedule = denoiser_schedule(given, given.batch_size * steps)
    assert schedule.steps_an_epoch == steps
    return [schedule.learning_rate(step) for step in range(schedule.steps)]


def test_learning_rate_drops_by_10_every_200_epochs_of_a_phase() -> None:
    found = rates(settings(), steps=3)
    assert len(found) == 3 * 1200
    assert found == pytest.approx(2 * ([1e-3] * 600 + [1e-4] * 600 + [1e-5] * 600))


def test_one_cycle_rises_to_the_learning_rate_and_falls_to_zero_in_a_phase() -> None:
    given = settings(
        optimizer="one_cycle",
        learning_rate=0.2,
        learning_rate_drop_every=1,
        epochs=10,
        discriminator_epochs=10,
    )
    both = rates(given, steps=5)
    found = both[:50]
    assert both[50:] == found
    peak = found.index(max(found))
    assert found[peak] == pytest.approx(0.2)
    assert 10 <= peak <= 20
    assert found[:peak] == sorted(found[:peak])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    assert found[0] == pytest.approx(0.2 / 25)
    assert found[-1] < 1e-5
    assert denoiser_schedule(given, 1).optimizer(7) == (1, "adam")


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_one_cycle_of_a_few_steps_moves(epochs: int) -> None:
    given = settings(
        optimizer="one_cycle", learning_rate=0.2, epochs=epochs, discriminator_epochs=0
    )
    assert all(0 < rate <= 0.2 for rate in rates(given))


def test_each_phase_and_kind_of_optimiser_begins_with_a_fresh_one() -> None:
    def fresh(**given: Any) -> list[tuple[int, int, str]]:
        schedule = denoiser_schedule(settings(mse_epochs=3, **given), 1)
        changes = [epoch for epoch in range(schedule.steps) if schedule.begins_anew(epoch)]
        return [(epoch, *schedule.optimizer(epoch)) for epoch in changes]

    assert fresh(optimizer="adam") == [(3, 1, "adam"), (603, 2, "adam")]
    assert fresh(optimizer="sgd") == [(3, 1, "sgd"), (603, 2, "sgd")]
    assert fresh(optimizer="adam_then_sgd") == [
        (3, 1, "adam"),
        (53, 1, "sgd"),
        (603, 2, "adam"),
        (653, 2, "sgd"),
    ]


def stepped(kind: Any, gradients: list[float], *, rate: float, decay: float) -> float:
    parameter = nn.Parameter(torch.tensor(1.0))
    schedule = Schedule(1, 1, lambda _: (0, kind), lambda _: rate, weight_decay=decay)
    optimizer = build_optimizer(schedule, 0, [parameter])
    optimizer.param_groups[0]["lr"] = rate
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    return parameter.item()


def test_sgd_has_momentum_and_weight_decay() -> None:
    # Velocity 0.2 + 0.5, then 0.9 of it + 0.4 + 0.5 times the parameter.
    first = 1 - 0.1 * (0.2 + 0.5)
    second = first - 0.1 * (0.9 * 0.7 + 0.4 + 0.5 * first)
    found = stepped("sgd", [0.2, 0.4], rate=0.1, decay=0.5)
    assert found == pytest.approx(second, rel=1e-6)


def test_adam_decays_weights_through_the_gradient() -> None:
    # The first step of Adam is the learning rate against the sign of gradient + decay * weight.
    assert stepped("adam", [-0.2], rate=0.1, decay=0.1) == pytest.approx(1.1)
    assert stepped("adam", [-0.2], rate=0.1, decay=0.5) == pytest.approx(0.9)
    assert stepped("adam", [0.0], rate=0.1, decay=0.0) == 1


def test_reversal_begins_at_0_and_ends_at_its_weight() -> None:
    given = settings(loss_weights={"discriminator": 3}, discriminator={"reversal_scale": 2})
    assert reversal_scale(given, 0) == 0
    assert reversal_scale(given, 1) == pytest.approx(6, rel=1e-3)
    scales = [reversal_scale(given, progress / 10) for progress in range(11)]
    assert scales == sorted(scales)
    # Ganin and Lempitsky 2015: 2 / (1 + exp(-10 p)) - 1 = tanh(5 p).
    assert scales == pytest.approx([6 * math.tanh(progress / 2) for progress in range(11)])
