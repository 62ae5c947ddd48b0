"""One contract for every registered network."""

from typing import get_args

import pytest
import torch
from torch import nn

from decrop.config import ClassifierArchitecture, DenoiserArchitecture, DenoiserSettings
from decrop.networks.registry import (
    CLASSIFIERS,
    DENOISERS,
    build_classifier_network,
    build_denoiser,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_registries_have_what_the_schema_allows() -> None:
    assert set(CLASSIFIERS) == set(get_args(ClassifierArchitecture))
    assert set(DENOISERS) == set(get_args(DenoiserArchitecture))


@pytest.mark.parametrize("architecture", CLASSIFIERS)
@pytest.mark.parametrize(("image_channels", "class_count", "size"), [(1, 3, 8), (3, 10, 16)])
def test_classifier_maps_images_to_logits(
    architecture: ClassifierArchitecture, image_channels: int, class_count: int, size: int
) -> None:
    torch.manual_seed(0)
    network = build_classifier_network(
        architecture, image_channels=image_channels, class_count=class_count
    ).eval()
    images = torch.rand(2, image_channels, size, size, requires_grad=True)
    logits = network(images)
    assert logits.shape == (2, class_count)
    assert logits.dtype == torch.float32
    assert torch.equal(network(images), logits)
    torch.testing.assert_close(network(images[:1]), logits[:1], atol=1e-4, rtol=1e-4)
    # Attack and denoiser need the gradient of the pixels.
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    assert gradient.abs().sum() > 0
    last = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    assert last.out_features == class_count


@pytest.mark.parametrize("architecture", DENOISERS)
@pytest.mark.parametrize("image_channels", [1, 3])
def test_denoiser_keeps_the_shape_and_starts_as_the_identity(
    architecture: DenoiserArchitecture, image_channels: int
) -> None:
    settings = DenoiserSettings(architecture=architecture, depth=5, channels=8)
    denoiser = build_denoiser(settings, image_channels=image_channels).eval()
    for size in ((8, 8), (5, 12)):
        noisy = torch.randn(2, image_channels, *size)
        denoised = denoiser(noisy)
        assert denoised.dtype == torch.float32
        torch.testing.assert_close(denoised, noisy)


@pytest.mark.parametrize("architecture", DENOISERS)
def test_denoiser_has_the_size_that_is_asked_for(architecture: DenoiserArchitecture) -> None:
    def parameters(depth: int, channels: int) -> int:
        settings = DenoiserSettings(architecture=architecture, depth=depth, channels=channels)
        denoiser = build_denoiser(settings, image_channels=1)
        return sum(parameter.numel() for parameter in denoiser.parameters())

    assert parameters(5, 8) < parameters(6, 8) < parameters(6, 16)
