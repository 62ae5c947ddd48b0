"""Pretraining on dead leaves: it learns to denoise, once for all trials that share it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from decrop.cache import ContentCache, Tensors
from decrop.config import DenoiserSettings, PriorSettings
from decrop.networks.conditional import SigmaConditional
from decrop.networks.registry import build_denoiser
from decrop.synthesis.dead_leaves import dead_leaves
from decrop.training.denoiser import DenoiserTrainer, initial_denoiser
from decrop.training.loop import OnCount, TrainingDivergedError
from decrop.training.prior import PRIOR, Prior, PriorTrainer, prior_weights
from tests.decrop.tiny import CPU, random_samples, tiny_classifier, tiny_config

pytestmark = pytest.mark.usefixtures("one_thread")

SIGMA = 0.25
DENOISER = DenoiserSettings(depth=4, channels=8)
SETTINGS = PriorSettings(kind="dead_leaves", steps=3, batch_size=4)


@pytest.fixture
def cache(tmp_path: Path) -> ContentCache:
    return ContentCache(tmp_path)


def made(
    cache: ContentCache,
    settings: PriorSettings = SETTINGS,
    on_step: OnCount | None = None,
    **changes: Any,
) -> Tensors | None:
    given: dict[str, Any] = {
        "settings": settings,
        "denoiser": DENOISER,
        "sigma": SIGMA,
        "image_shape": (1, 8, 8),
        "seed": 0,
        "precision": "fp32",
    }
    return prior_weights(Prior(**(given | changes)), cache, CPU, on_step)


def changed(**changes: Any) -> PriorSettings:
    return SETTINGS.model_copy(update=changes)


def same(one: Tensors | None, other: Tensors | None) -> bool:
    assert one is not None
    assert other is not None
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# What it learns.


def test_denoises_images_it_has_not_seen(cache: ContentCache) -> None:
    weights = made(
        cache,
        changed(steps=40, batch_size=16, learning_rate=0.01),
        denoiser=DenoiserSettings(depth=4, channels=16),
        image_shape=(1, 16, 16),
    )
    assert weights is not None
    denoiser = build_denoiser(DenoiserSettings(depth=4, channels=16), image_channels=1).eval()
    denoiser.load_state_dict(weights)
    images = dead_leaves((64, 1, 16, 16), np.random.default_rng(12345))
    noisy = images + SIGMA * torch.randn(
        images.shape, generator=torch.Generator().manual_seed(12345)
    )

    def psnr(denoised: Tensor) -> float:
        return -10 * F.mse_loss(denoised, images).log10().item()

    with torch.no_grad():
        gained = psnr(denoiser(noisy)) - psnr(noisy)
    assert psnr(noisy) == pytest.approx(-20 * np.log10(SIGMA), abs=0.2)
    assert gained > 3
    blurred = F.avg_pool2d(noisy, 3, stride=1, padding=1, count_include_pad=False)
    assert psnr(denoiser(noisy)) > psnr(blurred)


def test_starts_from_the_trainers_own_initialisation() -> None:
    config = tiny_config(seed=7)
    trainer = DenoiserTrainer(config, tiny_classifier(), random_samples(4), CPU)
    start = initial_denoiser(config.denoiser, image_channels=1, sigma=0.25, seed=7, device=CPU)
    assert same(dict(trainer.denoiser.state_dict()), dict(start.state_dict()))
    other = initial_denoiser(config.denoiser, image_channels=1, sigma=0.25, seed=8, device=CPU)
    assert not same(dict(start.state_dict()), dict(other.state_dict()))


def test_pretraining_starts_from_the_initial_denoiser(cache: ContentCache) -> None:
    # With almost no learning rate, the weights stay where they began.
    weights = made(cache, changed(steps=2, learning_rate=1e-12))
    assert weights is not None
    start = initial_denoiser(DENOISER, image_channels=1, sigma=0.25, seed=0, device=CPU)
    for name, tensor in start.state_dict().items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-9)


def test_trainer_begins_with_the_weights_it_is_given(cache: ContentCache) -> None:
    config = tiny_config()
    weights = made(cache, denoiser=config.denoiser)
    assert weights is not None
    trainer = DenoiserTrainer(
        config, tiny_classifier(), random_samples(4), CPU, initial_weights=weights
    )
    assert same(dict(trainer.denoiser.state_dict()), weights)
    trainer.run_epoch()
    assert not same(dict(trainer.denoiser.state_dict()), weights)


def test_a_denoiser_is_told_the_noise_of_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Tensor] = []

    class Told(SigmaConditional):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def denoised(self, images: Tensor, sigma: Tensor) -> Tensor:
            told.append(torch.stack([sigma, images.std((1, 2, 3))]))
            return self.scale * images

    monkeypatch.setattr("decrop.training.prior.initial_denoiser", lambda *_, **__: Told())
    prior = Prior(changed(sigma=(0.5, 5.0), batch_size=40), DENOISER, SIGMA, (3, 32, 32), 0, "fp32")
    PriorTrainer(prior, CPU).step()
    sigma, deviation = told[0]
    assert 0.5 <= sigma.min() < 1 and 4 < sigma.max() <= 5
    torch.testing.assert_close(deviation, sigma, rtol=0.15, atol=0.1)


def test_the_noise_is_that_of_the_certificates_where_none_is_given(cache: ContentCache) -> None:
    assert same(made(cache, sigma=0.3), made(cache, changed(sigma=0.3)))
    assert cache.computations(PRIOR) == 1


# Sharing.


def test_kind_none_does_nothing(cache: ContentCache) -> None:
    assert made(cache, changed(kind="none")) is None
    assert cache.computations(PRIOR) == 0


def test_second_trial_draws_nothing(cache: ContentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made(cache)

    def draw(*arguments: Any, **named: Any) -> Tensor:
        raise AssertionError("drawn again")

    monkeypatch.setattr("decrop.synthesis.dead_leaves.dead_leaves", draw)
    assert same(made(cache), first)
    assert cache.computations(PRIOR) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": changed(steps=4)},
        {"settings": changed(batch_size=5)},
        {"settings": changed(learning_rate=0.01)},
        {"settings": changed(kind="textured_leaves")},
        {"settings": changed(sigma=0.3)},
        {"settings": changed(sigma=(0.1, 0.4))},
        {"denoiser": DenoiserSettings(depth=4, channels=9)},
        {"sigma": 0.5},
        {"image_shape": (1, 8, 9)},
        {"image_shape": (3, 8, 8)},
        {"seed": 1},
    ],
)
def test_whatever_has_a_say_is_another_entry(cache: ContentCache, changes: dict[str, Any]) -> None:
    first = made(cache)
    second = made(cache, **changes)
    assert cache.computations(PRIOR) == 2
    assert first is not None
    assert second is not None
    shapes = [{name: tensor.shape for name, tensor in made.items()} for made in (first, second)]
    assert shapes[0] != shapes[1] or not same(first, second)


def test_same_seed_gives_the_same_weights_from_nothing(tmp_path: Path) -> None:
    first = made(ContentCache(tmp_path / "one"))
    torch.manual_seed(1)
    np.random.seed(1)
    assert same(made(ContentCache(tmp_path / "other")), first)


def test_what_is_cut_off_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    class CutOffError(Exception):
        pass

    settings = changed(steps=60, batch_size=2, sigma=(0.1, 0.4))
    whole = made(ContentCache(tmp_path / "whole"), settings)
    cache = ContentCache(tmp_path / "cut")
    seen: list[int] = []

    def cut(done: int, _: int) -> None:
        seen.append(done)
        if len(seen) == 2:
            raise CutOffError

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("decrop.training.loop.SAVE_EVERY_SECONDS", 0)
        with pytest.raises(CutOffError):
            made(cache, settings, cut)
    assert same(made(cache, settings, cut), whole)
    # The second epoch was over, but not saved.
    assert seen == [25, 50, 50, 60]
    assert not list(tmp_path.glob("cut/prior/*.unfinished"))


# Failures and progress.


def test_divergence_is_an_error_and_leaves_no_entry(cache: ContentCache) -> None:
    diverging = changed(steps=5, learning_rate=1e30)
    with pytest.raises(TrainingDivergedError, match=r"prior\.learning_rate"):
        made(cache, diverging)
    assert cache.computations(PRIOR) == 0


@pytest.mark.parametrize("steps", [1, 2, 26])
def test_progress_ends_with_the_last_step(cache: ContentCache, steps: int) -> None:
    seen: list[tuple[int, int]] = []
    made(
        cache,
        changed(steps=steps, batch_size=1),
        on_step=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(done, steps) for done in (25,) if done < steps] + [(steps, steps)]
