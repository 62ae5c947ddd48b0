"""The two phases of training: what each step computes, and that nothing else has a say in it."""

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decrop.classifiers.classifier import Classifier
from decrop.networks.conditional import SigmaConditional
from decrop.networks.discriminator import Discriminator
from decrop.synthesis.synthetic_samples import SyntheticSamples
from decrop.training import denoiser as denoiser_module
from decrop.training.denoiser import DenoiserTrainer, EpochRecord
from decrop.training.losses import (
    LossTerms,
    cosine_similarity,
    domain_loss,
    label_consistency_loss,
    maximum_mean_discrepancy,
    total_loss,
)
from tests.cases import cases
from tests.decrop.tiny import CPU, FEATURES, random_samples, same, tiny_classifier, tiny_config
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


def one_step(trainer: DenoiserTrainer, classifier: Classifier, samples: SyntheticSamples) -> Step:
    """Train an epoch of a single step without augmentation and find out what the views were."""
    found, record = record_epoch(trainer)
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
        # Recorded is the mean of both views.
        cosine = terms.cosine_similarity.item() / 2
        assert record.cosine_similarity == pytest.approx(cosine, rel=1e-4)
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
    trainer = make_trainer(samples, classifier, **NO_NOISE, training=training)
    orders = []
    for _ in range(2):
        found, _ = record_epoch(trainer)
        steps = [found.classified[call] for call in range(0, len(found.classified), 2)]
        assert sorted(len(step) for step in steps) == [4, 4, 5]
        orders.append(positions(torch.cat(steps), samples.clean))
        assert sorted(orders[-1]) == list(range(IMAGES + 1))
    assert orders[0] != orders[1]


def test_interpolated_samples_of_an_image_take_turns() -> None:
    count = 3
    classifier, samples = tiny_classifier(), random_samples(IMAGES, interpolated=count)
    training = {"batch_size": IMAGES, "epochs": 12, "augmentation": PLAIN}
    trainer = make_trainer(samples, classifier, **NO_NOISE, training=training)
    every = samples.interpolated.flatten(0, 1)
    chosen = []
    for _ in range(12):
        found, _ = record_epoch(trainer)
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


def three_equal_views() -> SyntheticSamples:
    clean = random_samples(IMAGES).clean
    flipped = torch.ones(IMAGES, dtype=torch.bool)
    return SyntheticSamples(clean, clean, flipped, clean[None], torch.zeros(1, IMAGES))


@pytest.mark.parametrize("views", ["matched", "independent"])
def test_views_share_crop_and_flip_if_matched(views: str) -> None:
    classifier, samples = tiny_classifier(), three_equal_views()
    training = {"augmentation": {"crop_padding": 2, "views": views}, "batch_size": IMAGES}
    trainer = make_trainer(samples, classifier, **NO_NOISE, training=training)
    found, _ = record_epoch(trainer)
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


# The noise that is trained on.


class Shrinking(SigmaConditional):
    """Shrinks images the more, the more noise they have."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.zeros(()))

    def denoised(self, images: Tensor, sigma: Tensor) -> Tensor:
        return images * torch.exp(-self.rate * sigma)[:, None, None, None]


LEVELS = [
    ({}, 0.1),
    ({"sigma": 0.3}, 0.3),
    ({"sigma": [0.1, 0.5]}, (0.1, 0.5)),
]


@cases(("training", "level"), LEVELS)
@pytest.mark.parametrize("objective", ["decrop", "stability", "mse"])
def test_denoiser_is_told_the_noise_of_each_image(
    monkeypatch: pytest.MonkeyPatch, training: dict[str, Any], level: Any, objective: str
) -> None:
    monkeypatch.setattr(denoiser_module, "initial_denoiser", lambda *_, **__: Shrinking())

    def views(training: dict[str, Any], **changes: Any) -> Recording:
        classifier = tiny_classifier()
        training = {"objective": objective, "augmentation": PLAIN, **training}
        # Of boundary samples some are left out, and their noise with them.
        changes["boundary"] = {"on_failure": "drop"}
        trainer = make_trainer(classifier=classifier, training=training, **changes)
        return record_epoch(trainer)[0]

    found, unit = views(training), views({"sigma": 1.0})
    still = views({}, **NO_NOISE)
    assert len(found.told) == len(found.noisy)
    for noisy, of_one, clean, sigma in zip(
        found.noisy, unit.noisy, still.noisy, found.told, strict=True
    ):
        noise = sigma[:, None, None, None] * (of_one - clean)
        assert torch.allclose(noisy - clean, noise, atol=1e-4)
    told = torch.cat(found.told)
    if isinstance(level, tuple):
        assert level[0] <= told.min() < told.max() <= level[1]
        assert told.max() - told.min() > 0.5 * (level[1] - level[0])
    else:
        assert (told == level).all()


def test_noise_levels_of_a_range_differ_between_steps_and_survive_a_save() -> None:
    def records(trainer: DenoiserTrainer, epochs: int) -> list[float]:
        return [trainer.run_epoch().total for _ in range(epochs)]

    training = {"sigma": [0.01, 1.0]}
    whole = records(make_trainer(training=training), 4)
    first, second = make_trainer(training=training), make_trainer(training=training)
    parts = records(first, 2)
    second.load_state_dict(first.state_dict())
    assert parts + records(second, 2) == whole


# What the denoiser learns.


# Each noise draw is seen by a learning denoiser and by one that stays the identity.
LEARNING = {
    "epochs": 1,
    "discriminator_epochs": 60,
    "batch_size": 64,
    "learning_rate": 0.02,
    "weight_decay": 0,
    "augmentation": PLAIN,
    "discriminator": {"learning_rate": 1e-9, "reversal_scale": 6},
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


@pytest.mark.slow
@cases(
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
