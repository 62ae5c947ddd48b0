"""Learning rate, optimiser and gradient reversal, epoch by epoch."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from decrop.config import TrainingSettings
from decrop.training.schedule import (
    build_optimizer,
    learning_rates,
    optimizer_kind,
    reversal_scale,
)


def settings(**given: Any) -> TrainingSettings:
    return TrainingSettings.model_validate(given)


def rate(given: TrainingSettings, epoch: int) -> float:
    rates = learning_rates(given, epoch, phase_epochs=1_000, steps=3)
    assert len(rates) == 3
    assert len(set(rates)) == 1
    return rates[0]


def test_learning_rate_drops_by_10_every_200_epochs() -> None:
    epochs = (0, 199, 200, 399, 400, 599)
    expected = (1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5)
    assert [rate(settings(), epoch) for epoch in epochs] == pytest.approx(expected)


def test_drops_follow_the_settings() -> None:
    given = settings(learning_rate=0.8, learning_rate_drop_every=3, learning_rate_drop_factor=0.5)
    rates = [rate(given, epoch) for epoch in range(8)]
    assert rates == pytest.approx([0.8] * 3 + [0.4] * 3 + [0.2] * 2)


def test_one_cycle_rises_to_the_learning_rate_and_falls_to_zero_in_a_phase() -> None:
    given = settings(optimizer="one_cycle", learning_rate=0.2, learning_rate_drop_every=1)
    epochs = [learning_rates(given, epoch, phase_epochs=10, steps=5) for epoch in range(10)]
    assert [len(rates) for rates in epochs] == [5] * 10
    rates = [rate for epoch in epochs for rate in epoch]
    peak = rates.index(max(rates))
    assert rates[peak] == pytest.approx(0.2)
    assert 10 <= peak <= 20
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[0] == pytest.approx(0.2 / 25)
    assert rates[-1] < 1e-5
    assert optimizer_kind(given, 7) == "adam"


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_one_cycle_of_a_few_steps_moves(epochs: int) -> None:
    given = settings(optimizer="one_cycle", learning_rate=0.2)
    rates = [learning_rates(given, e, phase_epochs=epochs, steps=1)[0] for e in range(epochs)]
    assert all(0 < rate <= 0.2 for rate in rates)


def test_optimizer_changes_after_adam_epochs() -> None:
    kinds = [optimizer_kind(settings(optimizer="adam_then_sgd"), epoch) for epoch in (0, 49, 50)]
    assert kinds == ["adam", "adam", "sgd"]
    for kind in ("adam", "sgd"):
        assert {optimizer_kind(settings(optimizer=kind), epoch) for epoch in (0, 49, 600)} == {kind}


def stepped(kind: Any, gradients: list[float], **given: Any) -> float:
    parameter = nn.Parameter(torch.tensor(1.0))
    optimizer = build_optimizer(settings(**given), kind, [parameter])
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    return parameter.item()


def test_sgd_has_momentum_and_weight_decay() -> None:
    # Velocity 0.2 + 0.5, then 0.9 of it + 0.4 + 0.5 times the parameter.
    first = 1 - 0.1 * (0.2 + 0.5)
    second = first - 0.1 * (0.9 * 0.7 + 0.4 + 0.5 * first)
    found = stepped("sgd", [0.2, 0.4], learning_rate=0.1, weight_decay=0.5)
    assert found == pytest.approx(second, rel=1e-6)


def test_adam_decays_weights_through_the_gradient() -> None:
    # The first step of Adam is the learning rate against the sign of gradient + decay * weight.
    assert stepped("adam", [-0.2], learning_rate=0.1, weight_decay=0.1) == pytest.approx(1.1)
    assert stepped("adam", [-0.2], learning_rate=0.1, weight_decay=0.5) == pytest.approx(0.9)
    assert stepped("adam", [0.0], learning_rate=0.1, weight_decay=0.0) == 1


def test_reversal_begins_at_0_and_ends_at_its_weight() -> None:
    given = settings(loss_weights={"discriminator": 3}, discriminator={"reversal_scale": 2})
    assert reversal_scale(given, 0) == 0
    assert reversal_scale(given, 1) == pytest.approx(6, rel=1e-3)
    scales = [reversal_scale(given, progress / 10) for progress in range(11)]
    assert scales == sorted(scales)
    # Ganin and Lempitsky 2015: 2 / (1 + exp(-10 p)) - 1 = tanh(5 p).
    assert scales == pytest.approx([6 * math.tanh(progress / 2) for progress in range(11)])


@pytest.mark.parametrize(
    "zero", [{"loss_weights": {"discriminator": 0}}, {"discriminator": {"reversal_scale": 0}}]
)
def test_nothing_is_reversed_without_a_weight(zero: dict[str, Any]) -> None:
    assert reversal_scale(settings(**zero), 0.7) == 0


def test_published_reversal_is_twice_the_default() -> None:
    published = settings(discriminator={"reversal_scale": 2})
    assert reversal_scale(published, 0.3) == 2 * reversal_scale(settings(), 0.3)
