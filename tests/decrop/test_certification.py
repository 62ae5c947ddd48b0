"""Certificates depend on seed, split and image alone, and rest on the settings' numbers."""

import torch
from scipy.stats import norm
from torch import Tensor, nn

from decrop.certification import certificate_table, clean_accuracy, local_sampler, precision_of
from decrop.config import TrialConfig
from decrop.data.limited import LabelledImages
from decrop.evaluation.table import CertificateTable
from decrop.result import Split
from decrop.smoothing.execution import resolve_precision
from tests.decrop.digits_trial import CPU, certificates, short_trial

CLASSES = 4


class NoisiestPixel(nn.Module):
    """Of four pixels the one that the noise brightens most."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


class NoisiestPixelCountedFromTheEnd(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).flip(1)


class Always(nn.Module):
    """One class, whatever the image."""

    def __init__(self, label: int) -> None:
        super().__init__()
        self.label = label

    def forward(self, images: Tensor) -> Tensor:
        return torch.eye(CLASSES)[self.label].expand(len(images), CLASSES)


def four_pixel_images(count: int = 12) -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 1, 2, 2), generator=generator, dtype=torch.uint8)
    return LabelledImages(images, images.flatten(1).argmax(1), torch.arange(count) * 3 + 5)


def table(
    network: nn.Module,
    images: LabelledImages,
    *assignments: str,
    split: Split = "test",
    estimation_samples: int = 100,
) -> CertificateTable:
    config: TrialConfig = short_trial(*assignments)
    return certificate_table(
        config,
        network,
        images,
        split=split,
        class_count=CLASSES,
        estimation_samples=estimation_samples,
        make_sampler=local_sampler(config),
    )


def test_rows_name_the_images_of_the_split() -> None:
    images = four_pixel_images()
    found = table(NoisiestPixel(), images)
    assert found.idx.tolist() == images.indices.tolist()
    assert found.label.tolist() == images.labels.tolist()


def test_different_networks_see_the_same_noise() -> None:
    images = four_pixel_images()
    # Of two pixels or counts that tie the first is taken, so neither may: none does in fp32, nor
    # among this many draws.
    settings = ("execution.precision=fp32", "certification.selection_samples=300")
    forward = table(NoisiestPixel(), images, *settings)
    backward = table(NoisiestPixelCountedFromTheEnd(), images, *settings)
    certified = forward.predict >= 0
    assert 0 < certified.sum() < len(certified)
    assert len(set(forward.radius.tolist())) > 3
    # Equal radii are equal counts of the same draws.
    assert backward.radius.tolist() == forward.radius.tolist()
    assert (backward.predict[certified] == CLASSES - 1 - forward.predict[certified]).all()


def test_noise_depends_on_seed_and_split() -> None:
    images = four_pixel_images()
    one = certificates(table(NoisiestPixel(), images))
    assert certificates(table(NoisiestPixel(), images)) == one
    assert certificates(table(NoisiestPixel(), images, "seed=1")) != one
    assert certificates(table(NoisiestPixel(), images, split="held_out")) != one


def test_certificates_do_not_depend_on_which_other_images_are_certified() -> None:
    images = four_pixel_images()
    rows = certificates(table(NoisiestPixel(), images))
    for mask in (torch.arange(12) % 3 == 1, torch.arange(12) >= 11):
        alone = certificates(table(NoisiestPixel(), images.subset(mask)))
        assert alone == [row for row, kept in zip(rows, mask.tolist(), strict=True) if kept]


def test_unanimous_draws_give_the_radius_of_the_settings() -> None:
    """Clopper-Pearson of n of n draws is failure_probability ** (1 / n)."""
    images = four_pixel_images()
    settings = ("sigma=0.7", "certification.failure_probability=0.02")
    found = table(Always(2), images, *settings, estimation_samples=90)
    expected = 0.7 * norm.ppf(0.02 ** (1 / 90))
    assert found.predict.tolist() == [2] * len(images)
    torch.testing.assert_close(
        torch.from_numpy(found.radius),
        torch.full((len(images),), expected, dtype=torch.float64),
        rtol=1e-12,
        atol=0,
    )


def test_progress_ends_with_everything_drawn() -> None:
    config = short_trial("certification.selection_samples=10")
    images = four_pixel_images()
    progress: list[tuple[int, int]] = []
    certificate_table(
        config,
        Always(0),
        images,
        split="test",
        class_count=CLASSES,
        estimation_samples=30,
        make_sampler=local_sampler(config),
        on_certified=lambda done, total: progress.append((done, total)),
    )
    assert progress[-1] == (12 * 40, 12 * 40)


def test_precision_is_that_of_the_device_unless_set() -> None:
    assert precision_of(short_trial()) == resolve_precision("auto", CPU)
    for precision in ("fp32", "bf16"):
        assert precision_of(short_trial(f"execution.precision={precision}")) == precision


def test_clean_accuracy_is_of_all_images_in_eval_mode() -> None:
    """Over more images than fit one pass, by a network that drops everything while it trains."""
    images = four_pixel_images(1001)
    wrong = images.labels.clone()
    wrong[-1] = (wrong[-1] + 1) % CLASSES
    network = nn.Sequential(NoisiestPixel(), nn.Dropout(1.0)).train()
    # Equal brightest pixels: argmax takes the first of them, in both.
    assert clean_accuracy(network, images, CPU) == 1.0
    images = LabelledImages(images.images, wrong, images.indices)
    assert abs(clean_accuracy(network, images, CPU) - 1000 / 1001) < 1e-6
