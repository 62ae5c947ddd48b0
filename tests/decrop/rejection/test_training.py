import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decrop.config.rejector import RejectorSettings
from decrop.errors import InputError, RunError
from decrop.rejection.training import (
    RejectorTrainer,
    rejection_targets,
    rejector_schedule,
    with_stages,
)
from tests.decrop.rejecting import (
    CLASSES,
    SHAPE,
    denoiser,
    small_classifier,
    small_settings,
)
from tests.decrop.tiny import random_images, same, tiny_classifier

CPU = torch.device("cpu")
IMAGES = random_images(12, size=SHAPE[1])


def trainer(settings: RejectorSettings | None = None, **changes: Any) -> RejectorTrainer:
    arguments: dict[str, Any] = {
        "denoiser": denoiser(),
        "classifier": small_classifier(),
        "images": IMAGES,
        "sigma": 0.25,
        "precision": "fp32",
        "device": CPU,
        **changes,
    }
    settings = with_stages(settings or small_settings(), arguments["classifier"], SHAPE)
    return RejectorTrainer(settings, **arguments)


def weights(trained: RejectorTrainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trained.rejector.state_dict().items()}


@pytest.mark.parametrize(("head", "heads"), [("clean", [0, 1, 2, 2]), ("denoised", [0, 2, 2, 1])])
def test_targets(head: Any, heads: list[int]) -> None:
    clean, denoised = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 2, 1])
    targets, learning = rejection_targets(clean, denoised, head)
    assert targets.tolist() == [0, 1, 0, 1]
    assert learning.tolist() == heads


def test_the_published_schedule() -> None:
    schedule = rejector_schedule(RejectorSettings(), 1)
    rates = [schedule.learning_rate(epoch) for epoch in range(20)]
    expected = [1e-4] * 5 + [1e-3] * 5 + [1e-4] * 5 + [1e-5] * 5
    assert rates == pytest.approx(expected)


def test_optimisers_follow_the_schedule() -> None:
    trained = trainer()
    kinds, rates = [], []
    for _ in range(4):
        record = trained.run_epoch()
        kinds.append(type(trained._optimizer).__name__)
        rates.append(record.learning_rate)
    assert kinds == ["Adam", "Adam", "SGD", "SGD"]
    assert rates == [1e-2, 1e-2, 1e-3, 1e-3]
    assert [record.epoch for record in trained.history] == [1, 2, 3, 4]


def test_neither_denoiser_nor_classifier_learns() -> None:
    """They could: their weights want gradients, and BatchNorm would count in train mode."""
    frozen_denoiser, classifier = denoiser().train(), small_classifier()
    classifier.requires_grad_(True)
    trained = trainer(denoiser=frozen_denoiser, classifier=classifier)
    copied = trained._classifier.classifier
    assert all(weight.requires_grad for weight in copied.parameters())
    frozen = (frozen_denoiser, classifier, copied)
    before = [{k: v.clone() for k, v in module.state_dict().items()} for module in frozen]
    rejector = weights(trained)
    for _ in range(3):
        trained.run_epoch()
    for module, state in zip(frozen, before, strict=True):
        assert same(state, module.state_dict())
        assert all(weight.grad is None for weight in module.parameters())
    assert not same(rejector, weights(trained))
    assert all(weight.grad is not None for weight in trained.rejector.parameters())


@pytest.mark.slow
def test_a_resumed_training_continues_exactly() -> None:
    whole = trainer()
    for _ in range(4):
        whole.run_epoch()
    for epochs in range(4):
        first = trainer()
        for _ in range(epochs):
            first.run_epoch()
        stream = io.BytesIO()
        torch.save(first.state_dict(), stream)
        stream.seek(0)
        second = trainer()
        second.load_state_dict(torch.load(stream, weights_only=True))
        while second.epochs_done < 4:
            second.run_epoch()
        assert same(weights(whole), weights(second))
        assert [r.loss for r in second.history] == [r.loss for r in whole.history]


def test_the_seed_decides() -> None:
    trained = [trainer(small_settings(seed=seed)) for seed in (0, 0, 1)]
    losses = [one.run_epoch().loss for one in trained]
    assert losses[0] == losses[1] != losses[2]


def test_every_image_is_drawn_equally_often_in_batches_of_the_size() -> None:
    trained = trainer(small_settings(noise_draws=5, batch_size=16), sigma=1e-6)
    batches = list(trained._batches(0))
    assert [len(clean) for clean, _ in batches] == [15, 15, 15, 15]
    clean = torch.cat([clean for clean, _ in batches])
    matches = (clean[:, None] == IMAGES.float() / 255).flatten(2).all(2)
    assert matches.sum(0).tolist() == [5] * len(IMAGES)
    again = torch.cat([clean for clean, _ in trained._batches(1)])
    assert not torch.equal(clean, again)


def test_noise_has_the_deviation_and_is_new_in_every_epoch() -> None:
    trained = trainer(small_settings(noise_draws=20), sigma=0.3)
    noise = [
        torch.cat([noisy - clean for clean, noisy in trained._batches(epoch)]) for epoch in (0, 1)
    ]
    assert noise[0].std().item() == pytest.approx(0.3, rel=0.02)
    assert not torch.isclose(noise[0], noise[1]).all(dim=(1, 2, 3)).any()


class Brightness(nn.Module):
    """Class 1 where the mean exceeds a half, else 0, of `CLASSES`."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, CLASSES)
        with torch.no_grad():
            self.fc.weight[:, 0] = torch.tensor([-1.0, 1.0, 0.0, 0.0])
            self.fc.bias[:] = torch.tensor([0.0, 0.0, -9.0, -9.0])

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(images.mean((1, 2, 3))[:, None])
        return logits


def test_scores_are_shares_of_errors_and_of_the_others() -> None:
    """A denoiser that makes everything white errs on dark images alone."""
    classifier = small_classifier()
    classifier.network = Brightness()
    classifier.mean.fill_(0.5)
    trained = trainer(
        small_settings(stages=(), noise_draws=4),
        denoiser=nn.Sequential(nn.Conv2d(1, 1, 1)),
        classifier=classifier,
    )
    with torch.no_grad():
        trained._denoiser[0].weight.zero_()
        trained._denoiser[0].bias.fill_(1.0)
        last = trained.rejector.heads[-1]
        last.weight.zero_()
        # Head 1, of the class of what is white, rejects; head 0, of the class of dark images, not.
        last.bias.copy_(torch.tensor([-1.0, 1.0, 0.0, 0.0]))
    images = torch.zeros(8, *SHAPE, dtype=torch.uint8)
    images[:2] = 255
    scores = trained.score(images)
    assert (scores.draws, scores.error_share) == (32, 0.75)
    assert (scores.rejected, scores.errors_rejected, scores.right_rejected) == (1, 1, 1)
    assert trained.score(images[:2]).errors_rejected is None
    assert trained.score(images[2:]).right_rejected is None
    with torch.no_grad():
        last.bias.copy_(torch.tensor([1.0, -1.0, 1.0, 1.0]))
    scores = trained.score(images)
    assert (scores.rejected, scores.errors_rejected, scores.right_rejected) == (0, 0, 0)


@pytest.mark.slow
def test_it_learns_which_draws_are_wrong() -> None:
    settings = small_settings(head="denoised", adam_epochs=12, noise_draws=20, width=8)
    trained = trainer(settings, denoiser=nn.Identity(), sigma=0.15)
    for _ in range(12):
        trained.run_epoch()
    history = trained.history
    assert 0.1 < history[0].error_share < 0.9
    assert history[-1].loss < 0.7 * history[0].loss
    scores = trained.score(IMAGES)
    assert scores.errors_rejected is not None and scores.right_rejected is not None
    assert scores.errors_rejected > scores.right_rejected + 0.3


def test_a_loss_that_is_not_finite_ends_it() -> None:
    trained = trainer(small_settings(adam_learning_rate=1e9))
    with pytest.raises(RunError, match=r"rejector's loss is .* lower rejector\.adam_learning_rate"):
        for _ in range(3):
            trained.run_epoch()


def test_stages_are_found_unless_named() -> None:
    assert with_stages(small_settings(), small_classifier(), SHAPE).stages == ("maps.5", "maps.9")
    named = small_settings(stages=("maps.2",))
    assert with_stages(named, small_classifier(), SHAPE) is named
    assert with_stages(small_settings(), tiny_classifier(), (1, 6, 6)).stages == ()
    with pytest.raises(InputError, match="stages: fc gives no"):
        trainer(small_settings(stages=("fc",)))
