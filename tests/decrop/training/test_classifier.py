"""Training a classifier: it learns, is repeatable and resumable, and objectives nest."""

import copy
import io
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from decrop.classifiers.classifier import Classifier
from decrop.config.classifier_training import ClassifierTrainingSettings
from decrop.networks.registry import build_classifier_network
from decrop.networks.small_cnn import SmallCNN
from decrop.seeds import torch_generator
from decrop.training import loop
from decrop.training.classifier import ClassifierTrainer
from decrop.training.loop import TrainingDivergedError, train
from tests.decrop.tiny import CPU, same

pytestmark = pytest.mark.usefixtures("one_thread")

OBJECTIVES = ("plain", "gaussian", "adre_reg", "smooth_adv", "adre_adv")
Weights = dict[str, Tensor]


def settings(**given: Any) -> ClassifierTrainingSettings:
    defaults = {"epochs": 2, "batch_size": 20, "learning_rate": 0.02, "noise_samples": 2}
    return ClassifierTrainingSettings.model_validate(defaults | given)


def bright_quadrants(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with one bright quadrant, which is the class."""
    generator = torch_generator(seed, "bright quadrants")
    images = torch.randint(0, 120, (count, 1, 8, 8), generator=generator)
    labels = torch.randint(0, 4, (count,), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        # Stripes, for a pooled network does not see where something is.
        image[0, row : row + 4 : 1 + label // 2, column : column + 4 : 1 + label % 2] += 135
    return images.to(torch.uint8), labels


def untrained(seed: int = 0) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = SmallCNN(image_channels=1, class_count=4)
    return Classifier(network, architecture="small_cnn", mean=(0.3,), std=(0.3,), class_count=4)


IMAGES, LABELS = bright_quadrants(101, seed=0)


def trainer(
    given: ClassifierTrainingSettings, classifier: Classifier | None = None, sigma: float = 0.2
) -> ClassifierTrainer:
    return ClassifierTrainer(
        classifier or untrained(), IMAGES, LABELS, given, sigma=sigma, device=CPU
    )


def trained(
    given: ClassifierTrainingSettings, classifier: Classifier | None = None, sigma: float = 0.2
) -> Weights:
    training = trainer(given, classifier, sigma)
    train(training)
    return training.weights()


def accuracy(weights: Weights, sigma: float = 0.0) -> float:
    classifier = untrained()
    classifier.network.load_state_dict(weights)
    images, labels = bright_quadrants(200, seed=1)
    noise = sigma * torch.randn(images.shape, generator=torch_generator(0, "noise"))
    return (classifier(images / 255 + noise).argmax(1) == labels).float().mean().item()


# What is learnt


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_learns(objective: str) -> None:
    given = settings(objective=objective, epochs=8)
    assert accuracy(untrained().network.state_dict()) < 0.6
    assert accuracy(trained(given)) > 0.9


def test_noise_makes_the_classifier_bear_noise() -> None:
    plain, noisy = (
        trained(settings(objective=objective, epochs=8), sigma=0.5)
        for objective in ("plain", "gaussian")
    )
    assert accuracy(noisy, 0.5) > accuracy(plain, 0.5) + 0.1


# How objectives nest


@pytest.mark.parametrize("samples", ["all", "one"])
def test_adre_reg_without_weight_is_gaussian_augmentation(samples: str) -> None:
    shared = {"cross_entropy_samples": samples, "noise_samples": 3}
    gaussian = trainer(settings(objective="gaussian", **shared))
    adre = trainer(settings(objective="adre_reg", regularisation_weight=0, **shared))
    while gaussian.steps_done < gaussian.steps:
        gaussian.step()
        adre.step()
        assert same(gaussian.weights(), adre.weights())
    weighted = trained(settings(objective="adre_reg", regularisation_weight=0.1, **shared))
    assert not same(gaussian.weights(), weighted)


def test_adre_adv_without_weight_is_smoothadv() -> None:
    smooth = trainer(settings(objective="smooth_adv"))
    adre = trainer(settings(objective="adre_adv", regularisation_weight=0))
    while smooth.steps_done < smooth.steps:
        smooth.step()
        adre.step()
        assert same(smooth.weights(), adre.weights())
    assert not same(smooth.weights(), trained(settings(objective="adre_adv")))


def test_a_vanishing_weight_tends_to_no_weight() -> None:
    """The regularised computation itself, not a switch, agrees where the weight is next to 0."""
    one_step = {"epochs": 1, "batch_size": 200}
    for without, regularised in (("gaussian", "adre_reg"), ("smooth_adv", "adre_adv")):
        expected = trained(settings(objective=without, **one_step))
        tiny = settings(objective=regularised, regularisation_weight=1e-30, **one_step)
        assert same(expected, trained(tiny))


def test_a_vanishing_ball_tends_to_no_attack() -> None:
    given = {"epochs": 1, "batch_size": 200, "optimizer": "sgd"}
    expected = trained(settings(objective="gaussian", **given))
    found = trained(settings(objective="smooth_adv", attack_epsilon=1e-12, **given))
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight)


def test_one_draw_is_in_the_cross_entropy_and_all_in_the_regulariser() -> None:
    shared = {"objective": "adre_reg", "noise_samples": 3, "epochs": 1, "batch_size": 200}
    records = {}
    for samples in ("all", "one"):
        training = trainer(settings(cross_entropy_samples=samples, **shared))
        train(training)
        (records[samples],) = training.history
    assert records["all"].cross_entropy != records["one"].cross_entropy
    assert records["all"].runner_up_cross_entropy == records["one"].runner_up_cross_entropy


def test_a_step_is_the_gradient_of_the_published_loss() -> None:
    """One SGD step of ADRE_REG beside the loss written out with softmax and logarithms."""
    given = settings(
        objective="adre_reg",
        noise_samples=3,
        regularisation_weight=0.3,
        epochs=1,
        batch_size=200,
        optimizer="sgd",
        schedule="drops",
        learning_rate=0.1,
        weight_decay=0.01,
    )
    training = trainer(given)
    seen: list[Tensor] = []
    training.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    network = copy.deepcopy(training.network).train()
    network._forward_pre_hooks.clear()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    training.step()
    (noisy,) = seen
    probabilities = network(noisy).reshape(3, 101, 4).softmax(2)
    # The order of the images is the trainer's own, and read off what it saw.
    labels = LABELS[training._batches(0)[0]]
    cross_entropy = -probabilities[:, torch.arange(101), labels].log().mean()
    smoothed = probabilities.mean(0)
    others = smoothed.masked_fill(F.one_hot(labels, 4).bool(), 0)
    loss = cross_entropy - 0.3 * -others.max(1).values.log().mean()
    loss.backward()
    (record,) = training.history
    assert record.total == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        expected = before[name] - 0.1 * (parameter.grad + 0.01 * before[name])
        torch.testing.assert_close(training.weights()[name], expected)


def test_noise_has_its_standard_deviation_and_differs_between_steps_and_draws() -> None:
    training = trainer(settings(objective="gaussian", noise_samples=2, epochs=1), sigma=0.4)
    seen: list[Tensor] = []
    training.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0] * 0.3 + 0.3))
    train(training)
    order = torch.cat(list(training._batches(0)))
    noise = torch.cat([step.unflatten(0, (2, -1)) for step in seen], 1) - IMAGES[order] / 255
    assert noise.std().item() == pytest.approx(0.4, rel=0.05)
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    flat = noise.flatten(0, 1).flatten(1)
    assert (torch.corrcoef(flat) - torch.eye(len(flat))).abs().max() < 0.7


# Seeds, batches and what is left alone


def test_training_is_determined_by_its_seed() -> None:
    for objective in ("plain", "adre_adv"):
        first = trained(settings(objective=objective))
        # Neither the weights of the given network nor the global generators matter.
        assert same(first, trained(settings(objective=objective), untrained(seed=1)))
        assert not same(first, trained(settings(objective=objective, seed=1)))


def test_dropout_is_determined_by_the_seed() -> None:
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(8) % 2
    network = build_classifier_network("half_alexnet", image_channels=3, class_count=2)
    classifier = Classifier(
        network, architecture="half_alexnet", mean=(0.5,) * 3, std=(0.5,) * 3, class_count=2
    )
    given = settings(epochs=1, batch_size=4)
    runs = []
    for _ in range(2):
        training = ClassifierTrainer(classifier, images, labels, given, sigma=0, device=CPU)
        train(training)
        runs.append(training.weights())
    assert same(*runs)


def test_training_leaves_classifier_and_generators_alone() -> None:
    classifier = untrained()
    content, state = classifier.content_hash(), torch.get_rng_state()
    weights = trained(settings(objective="adre_adv"), classifier)
    assert classifier.content_hash() == content
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    assert not any(tensor.requires_grad for tensor in weights.values())


def orders(seed: int) -> list[list[int]]:
    """Train and return in which order each epoch took the images."""
    classifier = untrained()
    standardised = (IMAGES.float() / 255 - classifier.mean) / classifier.std
    steps: list[Tensor] = []
    classifier.network.register_forward_pre_hook(lambda _, inputs: steps.append(inputs[0]))
    given = settings(seed=seed)
    trained(given, classifier)
    sizes = [len(step) for step in steps]
    assert len(sizes) == given.epochs * 6 and max(sizes) <= given.batch_size
    equal = (torch.cat(steps)[:, None] == standardised[None]).flatten(2).all(2)
    assert (equal.sum(1) == 1).all()
    positions: list[int] = equal.int().argmax(1).tolist()
    return [positions[: len(IMAGES)], positions[len(IMAGES) :]]


def test_every_epoch_takes_each_image_once_in_an_order_of_its_own() -> None:
    taken = orders(seed=0) + orders(seed=1)
    assert all(sorted(order) == list(range(len(IMAGES))) for order in taken)
    assert len({tuple(order) for order in taken}) == 4
    assert orders(seed=0) == taken[:2]


@pytest.mark.parametrize("images", [1, 2, 21])
def test_few_images_and_steps_are_enough(images: int) -> None:
    given = settings(epochs=1)
    training = ClassifierTrainer(
        untrained(), IMAGES[:images], LABELS[:images], given, sigma=0, device=CPU
    )
    train(training)
    assert all(torch.isfinite(tensor).all() for tensor in training.weights().values())


def test_crops_and_flips_change_what_is_trained_on() -> None:
    given = settings(augmentation="crop_and_flip", crop_padding=0, flip_probability=1.0, epochs=1)
    training = trainer(given)
    seen: list[Tensor] = []
    training.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    train(training)
    order = torch.cat(list(training._batches(0)))
    standardised = (IMAGES[order].float() / 255 - 0.3) / 0.3
    torch.testing.assert_close(torch.cat(seen), standardised.flip(3))


# Schedule


def rates(**given: Any) -> list[float]:
    training = trainer(settings(learning_rate=0.5, **given))
    train(training)
    return [record.learning_rate for record in training.history]


def test_learning_rate_drops() -> None:
    drops = {"schedule": "drops", "learning_rate_drop_every": 2, "learning_rate_drop_factor": 0.1}
    assert rates(epochs=5, batch_size=200, **drops) == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005])


# Resuming


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("objective", ["plain", "adre_adv"])
def test_a_resumed_training_is_the_uninterrupted_one(objective: str, optimizer: str) -> None:
    given = settings(objective=objective, optimizer=optimizer, augmentation="crop_and_flip")
    whole = trainer(given)
    train(whole)
    # 6 steps an epoch: inside an epoch and between epochs.
    for cut in (4, 6):
        first = trainer(given)
        for _ in range(cut):
            first.step()
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        torch.rand(3)
        second = trainer(given)
        second.load_state_dict(torch.load(file, weights_only=True))
        assert second.steps_done == cut
        train(second)
        assert same(second.weights(), whole.weights())
        untimed = [
            [{**asdict(record), "seconds": 0} for record in training.history]
            for training in (second, whole)
        ]
        assert untimed[0] == untimed[1]


def test_state_is_saved_now_and_then_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    for seconds in (1000.0, -1.0):
        monkeypatch.setattr(loop, "SAVE_EVERY_SECONDS", seconds)
        training = trainer(settings())
        train(training, save=lambda: saved.append(training.steps_done))  # noqa: B023
    assert saved == [12, *range(1, 13)]


def test_divergence_is_an_error_that_names_the_settings() -> None:
    given = settings(objective="adre_reg", optimizer="sgd", learning_rate=1e9, weight_decay=1e9)
    with pytest.raises(TrainingDivergedError, match=r"classifier\.training\.learning_rate"):
        trained(given)


def test_bf16_trains_nearly_as_fp32_does() -> None:
    given = {"objective": "gaussian", "epochs": 1, "batch_size": 200}
    records = []
    for precision in ("fp32", "bf16"):
        training = trainer(settings(precision=precision, **given))
        train(training)
        records += training.history
        assert all(
            tensor.dtype in (torch.float32, torch.int64) for tensor in training.weights().values()
        )
    assert records[0].total != records[1].total
    assert records[0].total == pytest.approx(records[1].total, rel=0.05)
