"""Denoisers that are no function of each image, or not by their contract, are told."""

import warnings
from typing import Any

import pytest
import torch

from decrop.config import DenoiserSettings
from decrop.denoisers.check import check_denoiser, check_sigma, check_trained_sigma, psnr
from decrop.denoisers.sources import open_denoiser
from decrop.errors import InputError
from tests.cases import cases
from tests.decrop.digits_trial import short_trial

FACTORIES = "tests.decrop.denoisers.factories"
# A ramp, which smoothing leaves as it is and noise does not.
IMAGES = (torch.arange(8 * 8).reshape(1, 1, 8, 8).expand(4, -1, -1, -1) * 4).to(torch.uint8)


def check(name: str, sigma: float = 0.25, **settings: Any) -> None:
    given = DenoiserSettings.model_validate({"source": f"{FACTORIES}:{name}", **settings})
    network = open_denoiser(given, image_channels=1, sigma=sigma).network.eval()
    check_denoiser(network, given, IMAGES, sigma)


@cases(
    ("name", "said"),
    [
        ("ByBatch", "in another way when others stand beside it"),
        ("Cropping", "returns [4, 1, 8, 7] for images [4, 1, 8, 8]"),
        ("Endless", "numbers that are not finite"),
        ("Failing", "RuntimeError: no images today"),
        ("SymmetricNoise", "takes them"),
    ],
)
def test_what_cannot_be_certified_is_refused(name: str, said: str) -> None:
    contract = {"takes": "images"} if name == "SymmetricNoise" else {}
    with pytest.raises(InputError) as error:
        check(name, contract=contract)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_denoiser_that_makes_images_worse_is_told() -> None:
    with pytest.warns(UserWarning, match="makes images worse: PSNR"):
        check("Negative")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check("Smoothing")


def test_sigma_beyond_the_training_of_a_denoiser_is_told() -> None:
    known = DenoiserSettings(source="ffdnet", weights="w")
    for sigma, settings in ((0.25, known), (0.5, DenoiserSettings(source="ffdnet"))):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_sigma(settings, sigma)
    with pytest.warns(UserWarning, match=r"was trained for sigma from 0 to 0\.294; sigma is 0\.5"):
        check_sigma(known, 0.5)


@cases(
    ("settings", "sigma", "said"),
    [
        ([], 0.5, "trained with noise of sigma 0.25; at 0.5 its certificates hold"),
        (["training.sigma=0.5"], 0.25, "trained with noise of sigma 0.5; at 0.25"),
        (["training.sigma=[0.1,0.4]"], 0.5, "trained with noise of sigma 0.1 to 0.4; at 0.5"),
        (["training.sigma=[0.1,0.4]"], 0.3, None),
        ([], 0.25, None),
    ],
)
def test_noise_that_a_denoiser_was_not_trained_with_is_told(
    settings: list[str], sigma: float, said: str | None
) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        check_trained_sigma(short_trial("sigma=0.25", *settings), sigma)
    assert len(told) == (said is not None)
    assert said is None or said in str(told[0].message)


def test_psnr_is_the_mean_over_images() -> None:
    clean = torch.zeros(2, 1, 2, 2)
    errors = torch.tensor([0.1, 0.01])[:, None, None, None]
    assert psnr(clean + errors, clean) == pytest.approx(30, abs=1e-4)
