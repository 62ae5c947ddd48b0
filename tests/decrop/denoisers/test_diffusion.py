"""Diffusion models in one step: the timestep, the scales and the prediction, by the formulas."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("diffusers", reason="diffusers is an optional extra")

from decrop.denoisers.diffusion import OneStepDenoiser, Schedule
from tests.cases import cases


class Prediction(nn.Module):
    """A perfect model of images that are all `value`, in [-1,1], told of what it was given."""

    config = SimpleNamespace(block_out_channels=(8, 8))

    def __init__(self, kept: Tensor, value: float, predicts: str) -> None:
        super().__init__()
        self.kept, self.value, self.predicts = kept, value, predicts
        self.given: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor, steps: Tensor, return_dict: bool) -> tuple[Tensor]:
        assert not return_dict and images.shape[-1] % 2 == images.shape[-2] % 2 == 0
        self.given.append((images, steps))
        kept = self.kept[steps][:, None, None, None].to(images.dtype)
        clean = torch.full_like(images, self.value)
        noise = (images - kept.sqrt() * clean) / (1 - kept).sqrt()
        velocity = kept.sqrt() * noise - (1 - kept).sqrt() * clean
        return ({"epsilon": noise, "sample": clean, "v_prediction": velocity}[self.predicts],)


def kept_by(schedule: Schedule) -> Tensor:
    """Return the products of alphas, from the published formulas."""
    steps = torch.arange(schedule.num_train_timesteps, dtype=torch.float64)
    share = steps / (schedule.num_train_timesteps - 1)
    if schedule.beta_schedule == "linear":
        betas = schedule.beta_start + share * (schedule.beta_end - schedule.beta_start)
    else:
        low, high = schedule.beta_start**0.5, schedule.beta_end**0.5
        betas = (low + share * (high - low)) ** 2
    return (1 - betas).cumprod(0)


@cases("beta_schedule", ["linear", "scaled_linear"])
def test_the_timestep_has_the_noise_of_sigma_in_the_models_units(beta_schedule: Any) -> None:
    schedule = Schedule(beta_schedule=beta_schedule)
    kept = kept_by(schedule)
    model = Prediction(kept, 0.5, "epsilon")
    denoiser = OneStepDenoiser(model, schedule)
    sigmas = torch.tensor([0.05, 0.12, 0.25, 0.5, 1.0])
    found = denoiser.timesteps(sigmas)
    levels = ((1 - kept) / kept).sqrt()
    for sigma, step in zip(sigmas.double(), found, strict=True):
        # Pixels of [-1,1] have twice the range.
        assert step == (levels.log() - (2 * sigma).log()).abs().argmin()
        assert levels[step - 1] < 2 * sigma < levels[step + 1]


@cases("predicts", ["epsilon", "sample", "v_prediction"])
def test_what_is_predicted_becomes_the_clean_image_in_pixels(predicts: Any) -> None:
    schedule = Schedule(prediction_type=predicts)
    kept = kept_by(schedule)
    model = Prediction(kept, 0.5, predicts)
    denoiser = OneStepDenoiser(model, schedule)
    denoiser.sigma = 0.25
    images = torch.rand(3, 1, 5, 6, generator=torch.Generator().manual_seed(0))
    found = denoiser(images)
    assert found.shape == images.shape
    assert torch.allclose(found, torch.full_like(found, 0.75), atol=1e-4)
    given, steps = model.given[-1]
    # The noisy image is scaled as the forward process scales it.
    expected = kept[steps[0]].sqrt().float() * (2 * images - 1)
    assert torch.allclose(given[..., :5, :6], expected, atol=1e-5)
    mixed = denoiser(images, torch.tensor([0.1, 0.25, 1.0]))
    assert torch.allclose(mixed, torch.full_like(found, 0.75), atol=1e-3)
    assert model.given[-1][1].tolist() == denoiser.timesteps(torch.tensor([0.1, 0.25, 1])).tolist()
