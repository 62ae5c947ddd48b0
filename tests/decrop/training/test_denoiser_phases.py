"""The phases of a training, their terms and optimisers, and how a training goes on."""

import dataclasses
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from decrop.synthesis.synthetic_samples import SyntheticSamples
from decrop.training.denoiser import DenoiserTrainer, EpochRecord
from decrop.training.loop import TrainingDivergedError
from decrop.training.losses import (
    cosine_similarity,
    label_consistency_loss,
)
from tests.cases import cases
from tests.decrop.tiny import random_samples, same, tiny_classifier, tiny_config
from tests.decrop.training.denoiser_trainers import (
    IMAGES,
    NO_NOISE,
    NO_WEIGHTS,
    PLAIN,
    make_trainer,
    positions,
    record_epoch,
    trained,
    weights,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_discriminator_matters_only_in_the_second_phase() -> None:
    by_rate = [trained(2, training={"discriminator": {"learning_rate": r}}) for r in (1e-4, 0.1)]
    assert same(weights(by_rate[0]), weights(by_rate[1]))
    for trainer in by_rate:
        for _ in range(2):
            trainer.run_epoch()
    assert not same(weights(by_rate[0]), weights(by_rate[1]))


def test_phase_without_discriminator_epochs_is_all() -> None:
    trainer = trained(2, training={"discriminator_epochs": 0})
    assert [record.phase for record in trainer.history] == [1, 1]
    assert same(weights(trainer), weights(trained(2)))


# Objectives.


def terms_of(record: EpochRecord) -> set[str]:
    names = ("label_consistency", "cosine_similarity", "mmd", "discriminator", "squared_error")
    return {name for name in names if getattr(record, name) is not None}


@cases(
    ("training", "expected"),
    [
        ({"objective": "mse"}, {1: {"squared_error"}}),
        ({"objective": "stability"}, {1: {"label_consistency"}}),
        (
            {"objective": "stability", "mse_epochs": 2},
            {0: {"squared_error"}, 1: {"label_consistency"}},
        ),
        (
            {},
            {
                1: {"label_consistency", "cosine_similarity", "mmd"},
                2: {"label_consistency", "cosine_similarity", "mmd", "discriminator"},
            },
        ),
    ],
)
def test_phases_have_the_terms_of_their_objective(
    training: dict[str, Any], expected: dict[int, set[str]]
) -> None:
    epochs = sum(tiny_config(training=training).training.phase_epochs)
    assert epochs == 2 * len(expected)
    trainer = trained(epochs, training=training)
    assert [record.phase for record in trainer.history] == sorted([*expected, *expected])
    assert {record.phase: terms_of(record) for record in trainer.history} == expected


def test_baselines_are_their_equations() -> None:
    classifier, samples = tiny_classifier(), random_samples(IMAGES)
    for objective in ("mse", "stability"):
        training = {"objective": objective, "batch_size": IMAGES, "augmentation": PLAIN}
        trainer = make_trainer(samples, classifier, sigma=0.3, training=training)
        found, record = record_epoch(trainer)
        (denoised,) = found.denoised
        (noisy,) = found.noisy
        if objective == "mse":
            assert not found.classified
            errors = (denoised[:, None] - samples.clean[None]).square().flatten(2).mean(2)
            order = errors.argmin(1)
            assert sorted(order.tolist()) == list(range(IMAGES))
            assert record.total == pytest.approx(errors.min(1).values.mean().item(), rel=1e-4)
        else:
            logits, targets = classifier(denoised), classifier(found.classified[0])
            expected = label_consistency_loss(logits, targets).item()
            assert record.total == pytest.approx(expected, rel=1e-4)
        assert noisy.shape == samples.clean.shape


@pytest.mark.parametrize("generated", ["boundary", "interpolated"])
def test_only_the_generated_samples_asked_for_count(generated: str) -> None:
    classifier, samples = tiny_classifier(), random_samples(IMAGES)
    training = {"generated_samples": generated, "batch_size": IMAGES, "augmentation": PLAIN}
    trainer = make_trainer(samples, classifier, **NO_NOISE, training=training)
    found, record = record_epoch(trainer)
    first, last = found.noisy
    rows = positions(last, samples.clean)
    views = {"boundary": samples.boundary[rows], "interpolated": samples.interpolated[0, rows]}
    assert torch.allclose(first, views[generated], atol=1e-4)
    logits = classifier(samples.clean[rows])
    expected = cosine_similarity(classifier(found.denoised[0]), logits).item()
    assert record.cosine_similarity == pytest.approx(expected, rel=1e-3)


def test_l1_penalty_shrinks_the_weights() -> None:
    def norm(penalty: float) -> float:
        training = {"l1_penalty": penalty, "loss_weights": NO_WEIGHTS, "weight_decay": 0}
        return float(
            sum(weight.abs().sum() for weight in weights(trained(training=training)).values())
        )

    assert norm(1.0) < norm(0.0)


def test_the_average_of_the_weights_is_the_denoiser() -> None:
    decay = 0.75
    training = {"averaging_decay": decay, "batch_size": IMAGES}
    trainer, plain = make_trainer(training=training), make_trainer(training={"batch_size": IMAGES})
    name = "noise.2.weight"
    expected = None
    for _ in range(4):
        trainer.run_epoch()
        plain.run_epoch()
        # Averaging leaves training itself alone.
        assert torch.equal(trainer.state_dict()["denoiser"][name], weights(plain)[name])
        current = weights(plain)[name]
        expected = current if expected is None else decay * expected + (1 - decay) * current
        assert torch.allclose(weights(trainer)[name], expected, atol=1e-6)
    assert not torch.allclose(weights(trainer)[name], weights(plain)[name], atol=1e-6)


def test_an_average_survives_a_save() -> None:
    training = {"averaging_decay": 0.75}
    whole = trained(4, training=training)
    first = trained(2, training=training)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = make_trainer(training=training)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    for _ in range(2):
        second.run_epoch()
    assert same(weights(second), weights(whole))


def test_bf16_trains_nearly_as_fp32_and_keeps_fp32_weights() -> None:
    by_precision = {
        precision: trained(execution={"training_precision": precision})
        for precision in ("fp32", "bf16")
    }
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights(by_precision["bf16"]).values())
    assert not same(weights(by_precision["bf16"]), weights(by_precision["fp32"]))
    totals = [trainer.history[0].total for trainer in by_precision.values()]
    assert totals[0] == pytest.approx(totals[1], rel=0.02)


# Samples whose attack failed.


def with_other_unflipped_boundary(samples: SyntheticSamples) -> SyntheticSamples:
    boundary = samples.boundary.clone()
    boundary[~samples.flipped] = 1 - boundary[~samples.flipped]
    return dataclasses.replace(samples, boundary=boundary)


@pytest.mark.parametrize("on_failure", ["keep", "drop"])
def test_unflipped_boundary_samples_count_only_if_kept(on_failure: str) -> None:
    samples = random_samples(IMAGES)
    assert 0 < samples.flipped.sum() < IMAGES
    boundary = {"on_failure": on_failure}
    one = trained(samples=samples, boundary=boundary)
    other = trained(samples=with_other_unflipped_boundary(samples), boundary=boundary)
    unnoticed = on_failure == "drop"
    assert same(weights(one), weights(other)) == unnoticed
    history = [[dataclasses.asdict(record) for record in t.history] for t in (one, other)]
    assert same(history[0], history[1]) == unnoticed


def test_dropping_changes_nothing_where_every_attack_succeeded() -> None:
    samples = dataclasses.replace(
        random_samples(IMAGES), flipped=torch.ones(IMAGES, dtype=torch.bool)
    )
    kept = trained(samples=samples, boundary={"on_failure": "keep"})
    dropped = trained(samples=samples, boundary={"on_failure": "drop"})
    assert same(weights(kept), weights(dropped))


@pytest.mark.parametrize("flipped", [0, 1])
def test_training_goes_on_with_hardly_any_boundary_samples(flipped: int) -> None:
    samples = dataclasses.replace(random_samples(IMAGES), flipped=torch.arange(IMAGES) < flipped)
    trainer = trained(samples=samples, boundary={"on_failure": "drop"})
    assert all(-1 <= record.cosine_similarity <= 2 for record in trainer.history)
    assert trainer.history[0].cosine_similarity <= 1 + flipped


# The classifier.


# Reproducibility and resumption.


def test_training_is_determined_by_settings_and_seed() -> None:
    torch.manual_seed(1)
    first = trained()
    torch.manual_seed(2)
    assert same(trained().state_dict(), first.state_dict())
    for change in ({"seed": 1}, {"sigma": 0.11}, {"training": {"learning_rate": 0.011}}):
        assert not same(weights(trained(**change)), weights(first))


def test_denoiser_is_in_training_mode_whatever_it_was_used_for_between_epochs() -> None:
    trainer = make_trainer()
    for _ in range(4):
        trainer.denoiser.eval()
        trainer.run_epoch()
    state = weights(trainer)
    assert same(state, weights(trained()))
    # Three views in each of an epoch's two steps.
    assert state["noise.3.num_batches_tracked"] == 4 * 2 * 3


def test_training_leaves_global_generators_alone() -> None:
    state = torch.get_rng_state()
    trained()
    assert torch.equal(torch.get_rng_state(), state)


# Phase 1 is Adam, Adam, SGD, and so is phase 2.
RESUMED = {
    "epochs": 3,
    "discriminator_epochs": 3,
    "optimizer": "adam_then_sgd",
    "adam_epochs": 2,
    "learning_rate_drop_every": 2,
}


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.fixture(scope="module")
def uninterrupted(one_thread: None) -> DenoiserTrainer:
    return trained(6, training=RESUMED)


@pytest.mark.parametrize("stops", [[stop] for stop in range(7)] + [[1, 2, 3, 4, 5]])
def test_resumed_training_is_the_uninterrupted_one(
    uninterrupted: DenoiserTrainer, stops: list[int]
) -> None:
    trainer = make_trainer(training=RESUMED)
    for epoch in range(7):
        if epoch in stops:
            state = saved_and_loaded(trainer.state_dict())
            trainer = make_trainer(training=RESUMED)
            trainer.load_state_dict(state)
            assert trainer.epochs_done == epoch
            assert same(trainer.state_dict(), state)
        if epoch < 6:
            trainer.run_epoch()
    assert same(trainer.state_dict(), uninterrupted.state_dict())
    assert [record.epoch for record in trainer.history] == [1, 2, 3, 4, 5, 6]


def test_history_has_the_schedule_of_each_phase(uninterrupted: DenoiserTrainer) -> None:
    history = uninterrupted.history
    assert [record.epoch for record in history] == [1, 2, 3, 4, 5, 6]
    assert [record.phase for record in history] == [1, 1, 1, 2, 2, 2]
    rates = [record.learning_rate for record in history]
    assert rates == pytest.approx([0.01, 0.01, 0.001] * 2)
    assert [record.discriminator is None for record in history] == [True] * 3 + [False] * 3
    assert all(record.seconds > 0 for record in history)
    history.clear()
    assert len(uninterrupted.history) == 6


def optimizer_steps(trainer: DenoiserTrainer, name: str) -> set[float]:
    state = trainer.state_dict()[name]["state"]
    return {float(parameter["step"]) for parameter in state.values() if "step" in parameter}


def test_discriminator_and_optimizers_are_fresh_in_the_second_phase() -> None:
    training = {"epochs": 3, "discriminator_epochs": 3, "batch_size": 6}
    trainer = make_trainer(training=training)
    steps = IMAGES // 6
    initial = {k: v.clone() for k, v in trainer.state_dict()["discriminator"].items()}
    for epoch in range(1, 4):
        trainer.run_epoch()
        assert optimizer_steps(trainer, "optimizer") == {epoch * steps}
    assert same(trainer.state_dict()["discriminator"], initial)
    assert optimizer_steps(trainer, "discriminator_optimizer") == set()
    for epoch in range(1, 4):
        trainer.run_epoch()
        assert optimizer_steps(trainer, "optimizer") == {epoch * steps}
        assert optimizer_steps(trainer, "discriminator_optimizer") == {epoch * steps}
    assert not same(trainer.state_dict()["discriminator"], initial)


def test_optimizer_switches_within_each_phase() -> None:
    trainer = make_trainer(training=RESUMED)
    kinds = []
    for _ in range(6):
        trainer.run_epoch()
        state = trainer.state_dict()["optimizer"]["state"][0]
        kinds.append("adam" if "exp_avg" in state else "sgd")
        assert ("momentum_buffer" in state) == (kinds[-1] == "sgd")
        rate = trainer.state_dict()["optimizer"]["param_groups"][0]["lr"]
        assert rate == trainer.history[-1].learning_rate
    assert kinds == ["adam", "adam", "sgd"] * 2


def test_discriminators_gradient_grows_over_its_phase() -> None:
    # In the first step of the second phase the ramp is 0, so that the weight has no say yet.
    def after(steps: int, weight: float) -> dict[str, Tensor]:
        training = {
            "epochs": 1,
            "discriminator_epochs": 2,
            "batch_size": IMAGES,
            "loss_weights": {"discriminator": weight},
        }
        return weights(trained(1 + steps, training=training))

    assert same(after(1, weight=0), after(1, weight=5))
    assert not same(after(2, weight=0), after(2, weight=5))


# Failure.


def broken_by_learning_rate() -> DenoiserTrainer:
    return make_trainer(training={"learning_rate": 1e9, "optimizer": "sgd", "epochs": 20})


def broken_by_data() -> DenoiserTrainer:
    samples = random_samples(IMAGES)
    samples.clean[0, 0, 0, 0] = torch.nan
    return make_trainer(samples)


@pytest.mark.parametrize("make", [broken_by_learning_rate, broken_by_data])
def test_diverged_training_is_reported(make: Callable[[], DenoiserTrainer]) -> None:
    trainer = make()
    with pytest.raises(TrainingDivergedError) as error:
        for _ in range(20):
            trainer.run_epoch()
    assert "training.learning_rate" in str(error.value)
    assert f"in epoch {trainer.epochs_done}" in str(error.value)
    assert len(trainer.history) == trainer.epochs_done - 1
    finite = [torch.tensor(record.total).isfinite() for record in trainer.history]
    assert all(finite)


# Speed.


def test_clean_images_are_classified_once_where_nothing_augments_them() -> None:
    by_policy = {}
    for policy in ("none", 1):
        augmentation = {"policy": policy, "crop_padding": 0, "flip_probability": 0.0}
        classifier = tiny_classifier()
        samples = random_samples(IMAGES)
        training = {"augmentation": augmentation, "batch_size": IMAGES}
        trainer = make_trainer(samples, classifier, training=training)
        found, _ = record_epoch(trainer)
        by_policy[policy] = trainer
        denoised = [images for images in found.classified if len(images) == 3 * IMAGES]
        assert len(denoised) == 1
        assert len(found.classified) == (1 if policy == "none" else 2)
    # The same training to rounding, as policy 1 without padding and flips moves nothing.
    once, each_time = weights(by_policy["none"]), weights(by_policy[1])
    for name, weight in once.items():
        assert torch.allclose(weight, each_time[name], atol=1e-3), name
