"""Choices of training beyond the paper's: each does what it says, and nothing where it is off."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decrop.classifiers.classifier import Classifier
from decrop.classifiers.feature_maps import Outputs, StagedClassifier
from decrop.config import DistillationSettings
from decrop.errors import InputError
from decrop.synthesis.synthetic_samples import SyntheticSamples
from decrop.training.denoiser import DenoiserTrainer, EpochRecord, freeze_all_but_last
from decrop.training.losses import (
    cosine_similarity,
    distillation_loss,
    label_consistency_loss,
    maximum_mean_discrepancy,
)
from tests.decrop.tiny import CLASSES, random_samples, same, tiny_classifier
from tests.decrop.training.denoiser_trainers import (
    IMAGES,
    NO_NOISE,
    NO_WEIGHTS,
    PLAIN,
    Recording,
    make_trainer,
    positions,
    record_epoch,
    trained,
    weights,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def one_step(
    samples: SyntheticSamples | None = None,
    classifier: Classifier | None = None,
    **training: Any,
) -> tuple[Recording, EpochRecord, Classifier]:
    """Train one step on all images, without augmentation or noise to speak of."""
    classifier = classifier or tiny_classifier()
    training = {"batch_size": IMAGES, "augmentation": PLAIN, **training}
    trainer = make_trainer(samples, classifier, **NO_NOISE, training=training)
    found, record = record_epoch(trainer)
    return found, record, classifier


def classifier_with_maps() -> Classifier:
    """A classifier like the tiny one, with maps of two sizes."""
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 4, 3, stride=2), nn.Flatten()
    )
    network.append(nn.Linear(16, CLASSES))
    return Classifier(network, architecture="tiny", mean=(0.5,), std=(0.1,), class_count=CLASSES)


# Terms and their weights.


def test_boundary_and_interpolated_samples_have_weights_of_their_own() -> None:
    found, record, classifier = one_step(loss_weights={"boundary": 2, "interpolated": 0.5})
    logits, features = classifier.logits_and_features(found.classified[0])
    outputs = [classifier.logits_and_features(view) for view in found.denoised]
    (interpolated, of_interpolated), (boundary, of_boundary), _ = outputs
    cosine = 0.5 * cosine_similarity(interpolated, logits) + 2 * cosine_similarity(boundary, logits)
    assert record.cosine_similarity == pytest.approx(cosine.item() / 2.5, rel=1e-4)
    discrepancy = maximum_mean_discrepancy
    mmd = 0.5 * discrepancy(of_interpolated, features) + 2 * discrepancy(of_boundary, features)
    assert record.mmd == pytest.approx(mmd.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("off", "left"), [("boundary", "interpolated"), ("interpolated", "boundary")]
)
def test_samples_of_no_weight_are_not_denoised(off: str, left: str) -> None:
    without = trained(training={"loss_weights": {off: 0}})
    assert same(weights(without), weights(trained(training={"generated_samples": left})))


def test_generated_samples_have_the_label_of_the_clean_image() -> None:
    found, record, classifier = one_step(
        loss_weights={**NO_WEIGHTS, "generated_label_consistency": 3, "boundary": 2}
    )
    logits = classifier(found.classified[0])
    interpolated, boundary, _ = (classifier(view) for view in found.denoised)
    expected = label_consistency_loss(interpolated, logits) + 2 * label_consistency_loss(
        boundary, logits
    )
    assert record.generated_label_consistency == pytest.approx(expected.item(), rel=1e-4)
    assert record.total == pytest.approx(3 * expected.item(), rel=1e-4)


@pytest.mark.parametrize("loss", ["kl", "mse", "feature_maps"])
@pytest.mark.parametrize("views", ["clean", "all"])
@pytest.mark.parametrize("objective", ["decrop", "stability"])
def test_outputs_are_distilled_from_the_clean_image(loss: str, views: str, objective: str) -> None:
    settings = {"loss": loss, "temperature": 3, "views": views}
    found, record, classifier = one_step(
        classifier=classifier_with_maps(),
        objective=objective,
        loss_weights={**NO_WEIGHTS, "distillation": 5},
        distillation=settings,
    )
    clean = found.classified[0]
    outputs = StagedClassifier(classifier, ("1", "2")).outputs
    compared = found.denoised if views == "all" else found.denoised[-1:]
    given = DistillationSettings.model_validate(settings)
    expected = sum(distillation_loss(outputs(view), outputs(clean), given) for view in compared)
    assert len(compared) == (3 if views == "all" and objective == "decrop" else 1)
    assert record.distillation == pytest.approx(float(expected), rel=1e-3)
    assert record.total == pytest.approx(5 * float(expected), rel=1e-3)


def test_feature_maps_need_a_classifier_that_has_them() -> None:
    changes = {"loss_weights": {"distillation": 1}, "distillation": {"loss": "feature_maps"}}
    with pytest.raises(InputError, match=r"training\.distillation\.loss: .*tiny has none"):
        make_trainer(training=changes)


# Generated images beside those of the data.


MIXED: dict[str, Any] = {
    "prior_images": {"kind": "dead_leaves", "count": 5},
    "loss_weights": {**NO_WEIGHTS, "prior_squared_error": 3, "prior_distillation": 2},
}


@pytest.mark.parametrize("objective", ["decrop", "stability", "mse"])
def test_generated_images_are_in_every_step(objective: str) -> None:
    classifier = tiny_classifier()
    training = {**MIXED, "objective": objective, "batch_size": IMAGES, "augmentation": PLAIN}
    trainer = make_trainer(classifier=classifier, sigma=0.3, training=training)
    # The identity, so that what is denoised is what is noisy.
    found, record = record_epoch(trainer)
    noisy, denoised = found.noisy[0], found.denoised[0]
    assert torch.equal(noisy, denoised) and len(noisy) == 5
    images = next(images for images in found.classified if len(images) == 5)
    error = (denoised - images).square().mean().item()
    assert error == pytest.approx(0.3**2, rel=0.3)
    assert record.prior_squared_error == pytest.approx(error, rel=1e-4)
    logits, targets = (Outputs(*classifier.logits_and_features(x)) for x in (denoised, images))
    distance = distillation_loss(logits, targets, DistillationSettings()).item()
    assert record.prior_distillation == pytest.approx(distance, rel=1e-4)
    rest = record.squared_error if objective == "mse" else 0
    assert record.total == pytest.approx(3 * error + 2 * distance + (rest or 0), rel=1e-4)


def test_generated_images_are_new_in_each_step_and_come_again_after_a_save() -> None:
    def images(trainer: DenoiserTrainer, epochs: int) -> list[Tensor]:
        found = []
        for _ in range(epochs):
            recording, _ = record_epoch(trainer)
            found += [images for images in recording.noisy if len(images) == 5]
        return found

    classifier = tiny_classifier()
    first, second = (make_trainer(classifier=classifier, training=MIXED) for _ in range(2))
    found = images(first, 1)
    state = {
        key: value.copy() if isinstance(value, dict) else value
        for key, value in first.state_dict().items()
    }
    second.load_state_dict(state)
    found += images(first, 1)
    assert len(found) == 4
    assert all(not torch.equal(*pair) for pair in itertools.combinations(found, 2))
    assert all(map(torch.equal, images(second, 1), found[2:]))


def test_generated_images_leave_what_is_drawn_of_the_data_alone() -> None:
    mixed = {**MIXED, "loss_weights": {"prior_squared_error": 0}}
    with_images, without = trained(training=mixed).network, trained().network
    # But for BatchNorm's statistics.
    pairs = zip(with_images.parameters(), without.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


# Noise.


def test_every_noise_draw_of_an_image_counts_alike() -> None:
    classifier, samples, draws = tiny_classifier(), random_samples(IMAGES), 3
    training = {"noise_draws": draws, "batch_size": IMAGES, "augmentation": PLAIN}
    trainer = make_trainer(samples, classifier, training=training)
    found, record = record_epoch(trainer)
    # Once, for all draws.
    clean = found.classified[0]
    rows = positions(clean, samples.clean)
    assert sorted(rows) == list(range(IMAGES))
    views = [samples.interpolated[0, rows], samples.boundary[rows], samples.clean[rows]]
    noises = [
        (noisy - view.repeat(draws, 1, 1, 1)).reshape(draws, IMAGES, -1)
        for noisy, view in zip(found.noisy, views, strict=True)
    ]
    assert torch.allclose(noises[0], noises[2], atol=1e-6)
    assert noises[0].std().item() == pytest.approx(0.1, rel=0.1)
    for one, other in itertools.combinations(noises[0], 2):
        assert ((one - other).abs().amax(1) > 0.01).all()
    losses = [
        label_consistency_loss(classifier(part), classifier(clean))
        for part in found.denoised[-1].chunk(draws)
    ]
    assert record.label_consistency == pytest.approx(sum(losses).item() / draws, rel=1e-4)


def test_noise_draws_need_no_augmentation() -> None:
    # Without any the clean images are classified beforehand.
    plain, none = (
        trained(1, training={"noise_draws": 2, "batch_size": IMAGES, "augmentation": augmentation})
        for augmentation in (PLAIN, {"policy": "none"})
    )
    for term in ("label_consistency", "cosine_similarity", "mmd"):
        found, expected = (getattr(trainer.history[0], term) for trainer in (none, plain))
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("noise", ["shared", "independent"])
def test_views_share_their_noise_where_asked_to(noise: str) -> None:
    classifier, samples = tiny_classifier(), random_samples(IMAGES)
    clean = samples.clean
    samples = SyntheticSamples(
        clean, clean, torch.ones(IMAGES, dtype=torch.bool), clean[None], torch.zeros(1, IMAGES)
    )
    training = {"noise_of_views": noise, "batch_size": IMAGES, "augmentation": PLAIN}
    found, _ = record_epoch(make_trainer(samples, classifier, training=training))
    for one, other in itertools.combinations(found.noisy, 2):
        difference = one - other
        if noise == "shared":
            assert not difference.any()
        else:
            # Of two independent normal numbers.
            assert difference.std().item() == pytest.approx(0.1 * 2**0.5, rel=0.2)


# Adversarial examples.


def test_adversarial_examples_stand_for_clean_images_alone() -> None:
    def first_epoch(epsilon: float, **more: Any) -> tuple[Recording, EpochRecord, DenoiserTrainer]:
        adversarial = {"epsilon": epsilon, "steps": 2}
        training = {"batch_size": IMAGES, "augmentation": PLAIN, "adversarial": adversarial, **more}
        trainer = make_trainer(training=training)
        return *record_epoch(trainer), trainer

    plain, before, free = first_epoch(0)
    attacked, after, trainer = first_epoch(0.3)
    views = len(plain.noisy)
    # The steps of the attack go first, then the views as ever, the clean one last.
    assert len(attacked.noisy) == 2 + views
    assert all(map(torch.equal, attacked.noisy[2:-1], plain.noisy[:-1]))
    moved = (attacked.noisy[-1] - plain.noisy[-1]).flatten(1).norm(dim=1)
    torch.testing.assert_close(moved, torch.full([IMAGES], 0.3))
    assert before.label_consistency is not None and after.label_consistency is not None
    assert after.label_consistency > before.label_consistency
    # BatchNorm has counted the views, and no attack.
    counts = [
        {name: count for name, count in weights(one).items() if name.endswith("tracked")}
        for one in (trainer, free)
    ]
    assert counts[0] and same(*counts)
    # The squared error has no classifier to attack.
    recording, _, _ = first_epoch(0.3, mse_epochs=1)
    assert len(recording.noisy) == 1


def test_an_image_has_one_adversarial_perturbation_under_all_its_noise_draws() -> None:
    training = {"batch_size": IMAGES, "augmentation": PLAIN, "noise_draws": 3}
    seen = [
        record_epoch(make_trainer(training={**training, "adversarial": {"epsilon": epsilon}}))[0]
        for epsilon in (0, 0.3)
    ]
    perturbations = (seen[1].noisy[-1] - seen[0].noisy[-1]).unflatten(0, (3, -1))
    assert perturbations.abs().amax() > 0.01
    torch.testing.assert_close(perturbations, perturbations[:1].expand_as(perturbations))


# Optimisation.


def test_phases_have_their_own_optimiser_and_rate() -> None:
    training = {
        "mse_epochs": 1,
        "epochs": 3,
        "discriminator_epochs": 3,
        "learning_rate_drop_every": 2,
        "mse_phase": {"learning_rate": 0.002},
        "discriminator_phase": {"optimizer": "sgd", "learning_rate": 0.5},
    }
    trainer = make_trainer(training=training)
    kinds = []
    for _ in range(7):
        trainer.run_epoch()
        kinds.append("exp_avg" in trainer.state_dict()["optimizer"]["state"][0])
    assert kinds == [True] * 4 + [False] * 3
    rates = [record.learning_rate for record in trainer.history]
    assert rates == pytest.approx([0.002, 0.01, 0.01, 0.001, 0.5, 0.5, 0.05])


def gradients(trainer: DenoiserTrainer) -> Tensor:
    return torch.cat([weight.grad.flatten() for weight in trainer.network.parameters()])


def test_gradients_are_scaled_down_to_their_largest_norm() -> None:
    training = {"batch_size": IMAGES}
    free = trained(1, training=training)
    norm = gradients(free).norm().item()
    wide = trained(1, training={**training, "gradient_norm": 2 * norm})
    assert same(weights(wide), weights(free))
    narrow = trained(1, training={**training, "gradient_norm": norm / 10})
    expected = gradients(free) / 10
    assert torch.allclose(gradients(narrow), expected, rtol=1e-3, atol=1e-4 * norm)


# The last layers.


BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def changed(layers: int) -> set[str]:
    before = weights(make_trainer())
    after = weights(trained(training={"last_layers": layers}))
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_only_the_last_layers_move() -> None:
    # Of DnCNN: convolution and ReLU, then twice convolution, BatchNorm and ReLU, then convolution.
    last, before_it, first = {"noise.8.weight"}, {"noise.5.weight"}, {"noise.0.weight"}
    assert changed(1) == last
    normalised = {f"noise.6.{name}" for name in BATCH_NORM}
    assert changed(2) == last | before_it | normalised
    assert changed(4) == changed(0) >= last | before_it | normalised | first


def test_layers_that_are_kept_normalise_as_they_did() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
    )
    kept = freeze_all_but_last(network, 1)
    assert kept == [network[0], network[1]]
    assert [weight.requires_grad for weight in network.parameters()] == [False] * 4 + [True] * 4


def test_last_layers_are_at_most_all() -> None:
    with pytest.raises(InputError, match="last_layers is 5, but the denoiser has 4"):
        make_trainer(training={"last_layers": 5})
