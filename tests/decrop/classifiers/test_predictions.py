"""Predictions on many images, in batches."""

import torch
from torch import Tensor, nn

from decrop.classifiers.predictions import accuracy, predicted_classes
from decrop.data.limited import LabelledImages
from tests.decrop.tiny import CPU

COUNT = 1001


class BrightestPixel(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def brightest(count: int = COUNT) -> LabelledImages:
    """Images whose label is the brightest of their four pixels; of equals the first."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 1, 2, 2), generator=generator, dtype=torch.uint8)
    return LabelledImages(images, images.flatten(1).argmax(1), torch.arange(count))


def test_accuracy_is_of_all_images_in_eval_mode() -> None:
    """Over more images than fit one pass, by a network that drops everything while it trains."""
    images = brightest()
    network = nn.Sequential(BrightestPixel(), nn.Dropout(1.0)).train()
    assert accuracy(network, images, CPU) == 1.0
    wrong = images.labels.clone()
    wrong[-1] = (wrong[-1] + 1) % 4
    images = LabelledImages(images.images, wrong, images.indices)
    assert abs(accuracy(network, images, CPU) - (COUNT - 1) / COUNT) < 1e-6


def test_predictions_are_of_perturbed_images_and_keep_the_order() -> None:
    images = brightest()
    found = predicted_classes(BrightestPixel(), images.images, CPU, perturb=lambda x: x.flip(2, 3))
    flipped = images.images.flip(2, 3).flatten(1).argmax(1)
    assert torch.equal(found, flipped)
    assert not torch.equal(found, images.labels)


def test_there_may_be_no_images() -> None:
    assert predicted_classes(BrightestPixel(), brightest(0).images, CPU).shape == (0,)
