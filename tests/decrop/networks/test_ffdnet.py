"""FFDNet with its authors' weights, where they lie beside the repository."""

from pathlib import Path

import pytest
import torch

from decrop.config import DatasetSettings, DenoiserSettings
from decrop.data.datasets import load_dataset
from decrop.data.limited import evenly_spaced
from decrop.denoisers.check import psnr
from decrop.denoisers.sources import open_denoiser
from decrop.networks.conditional import told_sigma

_SHARED = Path(__file__).parents[4] / "shared"
_WEIGHTS = _SHARED / "models" / "ffdnet_color.safetensors"
_DATA = _SHARED / "data" / "cifar10_jpeg"


@pytest.mark.skipif(
    not (_WEIGHTS.exists() and _DATA.exists()), reason="needs published weights and CIFAR-10"
)
def test_published_weights_denoise_photographs() -> None:
    settings = DenoiserSettings(source="ffdnet", weights=str(_WEIGHTS))
    denoiser = open_denoiser(settings, image_channels=3, sigma=0.1).network.eval()
    dataset = load_dataset(DatasetSettings(name="cifar10", path=str(_DATA)))
    clean = evenly_spaced(dataset.train, 20).images.float() / 255
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = {s: psnr(told_sigma(denoiser, s)(clean + s * noise), clean) for s in (0.1, 0.25)}
        mistold = psnr(told_sigma(denoiser, 0.25)(clean + 0.1 * noise), clean)
    print(f"PSNR at sigma 0.1 and 0.25: {found[0.1]:.2f} and {found[0.25]:.2f} dB")
    # Measured: 30.75 and 25.95 dB, from 20.0 and 12.1 without.
    assert found[0.1] > 28 and found[0.25] > 25
    assert mistold < found[0.1] - 1
