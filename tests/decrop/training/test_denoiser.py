"""The two phases of training: what each step computes, and that nothing else has a say in it."""

import dataclasses
import io
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decrop.classifiers.classifier import Classifier
from decrop.networks.discriminator import Discriminator
from decrop.synthesis.stage_one import StageOne
from decrop.training.denoiser import DenoiserTrainer, EpochRecord, TrainingDivergedError
from decrop.training.losses import (
    LossTerms,
    cosine_similarity,
    domain_loss,
    label_consistency_loss,
    maximum_mean_discrepancy,
    total_loss,
)
from tests.decrop.tiny import CPU, FEATURES, random_samples, tiny_classifier, tiny_config

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = 12
PLAIN = {"crop_padding": 0, "flip_probability": 0.0}
NO_WEIGHTS = {"label_consistency": 0, "cosine": 0, "mmd": 0, "discriminator": 0}


def make_trainer(
    samples: StageOne | None = None, classifier: Classifier | None = None, **changes: Any
) -> DenoiserTrainer:
    config = tiny_config(**changes)
    return DenoiserTrainer(
        config, classifier or tiny_classifier(), samples or random_samples(IMAGES), CPU
    )


def trained(epochs: int = 4, **changes: Any) -> DenoiserTrainer:
    trainer = make_trainer(**changes)
    for _ in range(epochs):
        trainer.run_epoch()
    return trainer


def weights(trainer: DenoiserTrainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.denoiser.state_dict().items()}


def same(one: Any, other: Any) -> bool:
    """Compare nested states to the bit, but for the seconds that epochs took."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            same(one[key], other[key]) for key in one if key != "seconds"
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@dataclasses.dataclass
class Recording:
    """What went into and came out of the denoiser, and into the classifier, call by call."""

    noisy: list[Tensor] = dataclasses.field(default_factory=list)
    denoised: list[Tensor] = dataclasses.field(default_factory=list)
    classified: list[Tensor] = dataclasses.field(default_factory=list)


def record_epoch(trainer: DenoiserTrainer, classifier: Classifier) -> tuple[Recording, EpochRecord]:
    found = Recording()

    def denoise(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        found.noisy.append(inputs[0].detach().clone())
        found.denoised.append(output.detach().clone())

    def classify(_: nn.Module, inputs: tuple[Tensor]) -> None:
        found.classified.append(inputs[0].detach().clone())

    handles = [
        trainer.denoiser.register_forward_hook(denoise),
        classifier.register_forward_pre_hook(classify),
    ]
    record = trainer.run_epoch()
    for handle in handles:
        handle.remove()
    return found, record


def positions(rows: Tensor, images: Tensor) -> list[int]:
    """Find which image each row is."""
    equal = (rows[:, None] - images[None]).flatten(2).abs().amax(2) < 1e-4
    assert (equal.sum(1) == 1).all()
    return equal.int().argmax(1).tolist()


# What one step computes.


@dataclasses.dataclass
class Step:
    """A step on all images, with the three views told apart."""

    record: EpochRecord
    rows: list[int]
    noise: Tensor
    clean: Tensor
    denoised: dict[str, Tensor]
    last: str


def one_step(trainer: DenoiserTrainer, classifier: Classifier, samples: StageOne) -> Step:
    """Train an epoch of a single step without augmentation and find out what the views were."""
    found, record = record_epoch(trainer, classifier)
    assert len(found.noisy) == 3
    clean, all_denoised = found.classified
    assert torch.equal(all_denoised, torch.cat(found.denoised))
    rows = positions(clean, samples.clean)
    views = {
        "clean": samples.clean[rows],
        "boundary": samples.boundary[rows],
        "interpolated": samples.interpolated[0, rows],
    }
    explanations = []
    for names in itertools.permutations(views):
        noises = [noisy - views[name] for noisy, name in zip(found.noisy, names, strict=True)]
        if all(torch.allclose(noise, noises[0], atol=1e-6) for noise in noises):
            explanations.append((names, noises[0]))
    # The views share one noise, which tells them apart.
    ((names, noise),) = explanations
    denoised = dict(zip(names, found.denoised, strict=True))
    return Step(record, rows, noise, clean, denoised, names[-1])


def terms_by_hand(
    step: Step, classifier: Classifier, discriminator: Discriminator | None
) -> LossTerms:
    logits, features = classifier.logits_and_features(step.clean)
    views = {name: classifier.logits_and_features(images) for name, images in step.denoised.items()}
    generated = [views["boundary"], views["interpolated"]]
    domain = None
    if discriminator is not None:
        scores = discriminator(torch.cat([features, views["clean"][1]]))
        domain = domain_loss(scores[:IMAGES], scores[IMAGES:])
    return LossTerms(
        label_consistency=label_consistency_loss(views["clean"][0], logits),
        cosine_similarity=sum(
            (cosine_similarity(l_, logits) for l_, _ in generated), torch.zeros(())
        ),
        mmd=sum((maximum_mean_discrepancy(f, features) for _, f in generated), torch.zeros(())),
        domain=domain,
    )


def test_steps_are_the_equations() -> None:
    sigma = 0.3
    classifier, samples = tiny_classifier(), random_samples(IMAGES)
    training = {
        "batch_size": IMAGES,
        "augmentation": PLAIN,
        "loss_weights": {"label_consistency": 0.5, "cosine": 2, "mmd": 3, "discriminator": 7},
    }
    config = tiny_config(sigma=sigma, training=training)
    trainer = DenoiserTrainer(config, classifier, samples, CPU)
    noises = []
    for phase in (1, 1, 2, 2):
        discriminator = None
        if phase == 2:
            discriminator = Discriminator(features=FEATURES, hidden_units=6)
            discriminator.load_state_dict(trainer.state_dict()["discriminator"])
        step = one_step(trainer, classifier, samples)
        terms = terms_by_hand(step, classifier, discriminator)
        record = step.record
        assert record.phase == phase
        assert record.label_consistency == pytest.approx(terms.label_consistency.item(), rel=1e-4)
        assert record.cosine_similarity == pytest.approx(terms.cosine_similarity.item(), rel=1e-4)
        assert record.mmd == pytest.approx(terms.mmd.item(), rel=1e-4)
        total = total_loss(terms, config.training.loss_weights).item()
        assert record.total == pytest.approx(total, rel=1e-4)
        if terms.domain is None:
            assert record.discriminator is None
        else:
            assert record.discriminator == pytest.approx(terms.domain.item(), rel=1e-4)
        assert sorted(step.rows) == list(range(IMAGES))
        # BatchNorm's running statistics are nearly those of the last view.
        assert step.last == "clean"
        noises.append(step.noise)
    noise = torch.stack(noises)
    assert noise.std().item() == pytest.approx(sigma, rel=0.1)
    assert noise.mean().abs().item() < 0.05 * sigma * 4
    assert (noise[:, None] - noise[None]).flatten(2).std(2).count_nonzero() == 4 * 3


def test_epoch_takes_every_image_once_in_steps_of_at_most_a_batch() -> None:
    classifier, samples = tiny_classifier(), random_samples(IMAGES + 1)
    training = {"batch_size": 5, "augmentation": PLAIN}
    trainer = make_trainer(samples, classifier, sigma=1e-6, training=training)
    orders = []
    for _ in range(2):
        found, _ = record_epoch(trainer, classifier)
        steps = [found.classified[call] for call in range(0, len(found.classified), 2)]
        assert sorted(len(step) for step in steps) == [4, 4, 5]
        orders.append(positions(torch.cat(steps), samples.clean))
        assert sorted(orders[-1]) == list(range(IMAGES + 1))
    assert orders[0] != orders[1]


def test_interpolated_samples_of_an_image_take_turns() -> None:
    count = 3
    classifier, samples = tiny_classifier(), random_samples(IMAGES, interpolated=count)
    training = {"batch_size": IMAGES, "epochs": 12, "augmentation": PLAIN}
    trainer = make_trainer(samples, classifier, sigma=1e-6, training=training)
    every = samples.interpolated.flatten(0, 1)
    chosen = []
    for _ in range(12):
        found, _ = record_epoch(trainer, classifier)
        rows = positions(found.classified[0], samples.clean)
        # Of the two generated views the interpolated one is no boundary sample.
        (interpolated,) = [
            noisy
            for noisy in found.noisy
            if not torch.allclose(noisy, samples.boundary[rows], atol=1e-4)
            and not torch.allclose(noisy, samples.clean[rows], atol=1e-4)
        ]
        at = positions(interpolated, every)
        assert [position % IMAGES for position in at] == rows
        chosen.append([position // IMAGES for position in at])
    # Within an epoch and over epochs.
    assert all(set(versions) == set(range(count)) for versions in chosen[:3])
    assert {version for versions in chosen for version in versions} == set(range(count))
    counts = torch.tensor(chosen).flatten().bincount()
    assert counts.min() > IMAGES * 12 / count / 2


def three_equal_views() -> StageOne:
    clean = random_samples(IMAGES).clean
    flipped = torch.ones(IMAGES, dtype=torch.bool)
    return StageOne(clean, clean, flipped, clean[None], torch.zeros(1, IMAGES))


@pytest.mark.parametrize("views", ["matched", "independent"])
def test_views_share_crop_and_flip_if_matched(views: str) -> None:
    classifier, samples = tiny_classifier(), three_equal_views()
    training = {"augmentation": {"crop_padding": 2, "views": views}, "batch_size": IMAGES}
    trainer = make_trainer(samples, classifier, sigma=1e-6, training=training)
    found, _ = record_epoch(trainer, classifier)
    clean = found.classified[0]
    images = [clean, *found.noisy]
    agree = [
        (one - other).flatten(1).abs().amax(1) < 1e-4
        for one, other in itertools.combinations(images, 2)
    ]
    # Clean and noisy clean images are one view, in any case.
    assert agree[2].all()
    apart = torch.stack([agree[0], agree[1], agree[3]])
    assert apart.all() if views == "matched" else apart.float().mean() < 0.3
    assert not (clean == samples.clean).flatten(1).all(1).all()


# What the denoiser learns.


# Each noise draw is seen by a learning denoiser and by one that stays the identity.
LEARNING = {
    "epochs": 1,
    "discriminator_epochs": 60,
    "batch_size": 64,
    "learning_rate": 0.02,
    "weight_decay": 0,
    "augmentation": PLAIN,
    "discriminator": {"learning_rate": 1e-9, "reversal_scale": 3},
}


def learnt_terms(weights_: dict[str, float], **discriminator: float) -> dict[str, Tensor]:
    """Train with some of the weights and return the terms of the last 30 epochs."""
    training = {
        **LEARNING,
        "loss_weights": {**NO_WEIGHTS, **weights_},
        "discriminator": {**LEARNING["discriminator"], **discriminator},  # type: ignore[dict-item]
    }
    trainer = trained(61, samples=random_samples(64), sigma=0.3, training=training)
    names = ("label_consistency", "cosine_similarity", "mmd", "discriminator")
    return {
        name: torch.tensor([getattr(record, name) for record in trainer.history[-30:]])
        for name in names
    }


@pytest.fixture(scope="module")
def identity_terms(one_thread: None) -> dict[str, Tensor]:
    return learnt_terms({})


def assert_positive(changes: Tensor) -> None:
    assert changes.mean() > 3 * changes.std() / len(changes) ** 0.5


@pytest.mark.parametrize(
    ("weight", "term", "sign"),
    [
        ("label_consistency", "label_consistency", -1),
        ("cosine", "cosine_similarity", 1),
        ("mmd", "mmd", -1),
        # The denoiser climbs where the discriminator descends.
        ("discriminator", "discriminator", 1),
    ],
)
def test_each_weight_alone_moves_its_own_term(
    identity_terms: dict[str, Tensor], weight: str, term: str, sign: int
) -> None:
    terms = learnt_terms({weight: 1})
    assert_positive(sign * (terms[term] - identity_terms[term]))


def test_discriminator_descends_its_loss(identity_terms: dict[str, Tensor]) -> None:
    terms = learnt_terms({}, learning_rate=0.02)
    assert_positive(identity_terms["discriminator"] - terms["discriminator"])
    # With no weight it does so alone.
    assert torch.equal(terms["mmd"], identity_terms["mmd"])


@pytest.mark.parametrize("weight", ["label_consistency", "cosine", "mmd", "discriminator"])
def test_setting_any_weight_to_0_changes_the_denoiser(weight: str) -> None:
    reference = weights(trained())
    without = weights(trained(training={"loss_weights": {weight: 0}}))
    assert not same(without, reference)
    for name in ("noise.0.weight", "noise.2.weight"):
        difference = (without[name] - reference[name]).abs().max()
        assert difference > 1e-5


@pytest.mark.parametrize(
    "off",
    [{"loss_weights": {"discriminator": 0}}, {"discriminator": {"reversal_scale": 0}}],
    ids=["weight", "reversal scale"],
)
def test_without_its_weight_the_discriminator_learns_and_the_denoiser_does_not_notice(
    off: dict[str, Any],
) -> None:
    def result(learning_rate: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        training = {key: dict(value) for key, value in off.items()}
        training.setdefault("discriminator", {})["learning_rate"] = learning_rate
        trainer = make_trainer(training=training)
        before = trainer.state_dict()["discriminator"]["layers.0.weight"].clone()
        for _ in range(4):
            trainer.run_epoch()
        after = trainer.state_dict()["discriminator"]
        assert not torch.equal(before, after["layers.0.weight"])
        return weights(trainer), after

    slow, fast = result(1e-4), result(0.1)
    assert same(slow[0], fast[0])
    assert not same(slow[1], fast[1])


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


@pytest.mark.parametrize(
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
        found, record = record_epoch(trainer, classifier)
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
    trainer = make_trainer(samples, classifier, sigma=1e-6, training=training)
    found, record = record_epoch(trainer, classifier)
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


def with_other_unflipped_boundary(samples: StageOne) -> StageOne:
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


def test_classifier_does_not_change() -> None:
    classifier = tiny_classifier()
    content = classifier.content_hash()
    trained(classifier=classifier)
    assert classifier.content_hash() == content
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    assert not any(module.training for module in classifier.modules())


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
    return make_trainer(training={"learning_rate": 1e30, "optimizer": "sgd", "epochs": 20})


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
        found, _ = record_epoch(trainer, classifier)
        by_policy[policy] = trainer
        denoised = [images for images in found.classified if len(images) == 3 * IMAGES]
        assert len(denoised) == 1
        assert len(found.classified) == (1 if policy == "none" else 2)
    # The same training to rounding, as policy 1 without padding and flips moves nothing.
    once, each_time = weights(by_policy["none"]), weights(by_policy[1])
    for name, weight in once.items():
        assert torch.allclose(weight, each_time[name], atol=1e-3), name
