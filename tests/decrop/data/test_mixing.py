"""Mixtures: where the partner shows, and how much of each image there is."""

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from decrop.config import AugmentationSettings, Mixing
from decrop.data.augmentation import mixed
from decrop.seeds import torch_generator

BATCH = 800
HEIGHT, WIDTH = 12, 20


def settings(mixing: Mixing, alpha: float = 1.0) -> AugmentationSettings:
    return AugmentationSettings(mixing=mixing, mixing_alpha=alpha)


def shares_and_partners(mixing: Mixing, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return the partner's share of every pixel, [B, H, W], and partners, [B], -1 where unseen.

    Image i is filled with i in one view and with i² in the other. If a pixel of its mixture has the
    share s of image p, it differs from those by s (p - i) and s (p² - i²).
    """
    number = torch.arange(BATCH, dtype=torch.float64)[:, None, None, None]
    views = [(number**power).expand(-1, 1, HEIGHT, WIDTH) for power in (1, 2)]
    mixtures = mixed(views, settings(mixing, alpha), torch_generator(0))
    first, second = ((m - v)[:, 0] for m, v in zip(mixtures, views, strict=True))
    sums = torch.where(first == 0, -1.0, second / first).flatten(1).amax(1)
    partner = torch.where(sums < 0, -1, (sums - number.flatten()).round()).long()
    distance = (partner - number.flatten())[:, None, None]
    share = torch.where(first == 0, 0.0, first / distance)
    return share, partner


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_blends_by_a_beta_share(alpha: float) -> None:
    share, partner = shares_and_partners("mixup", alpha)
    # An image that is its own partner has no share to measure.
    mixtures = share[partner >= 0].flatten(1)
    assert len(mixtures) > BATCH - 10
    assert torch.equal(mixtures, mixtures[:, :1].expand_as(mixtures))
    assert kstest(mixtures[:, 0].numpy(), "beta", (alpha, alpha)).pvalue > 1e-3


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_partners_are_a_permutation(mixing: Mixing) -> None:
    _, partner = shares_and_partners(mixing)
    shown = partner >= 0
    assert shown.sum() > BATCH / 2
    assert len(partner[shown].unique()) == shown.sum()
    shifts = (partner - torch.arange(BATCH))[shown]
    assert len(shifts.unique()) > 100


def test_cutmix_pastes_one_box_within_the_image() -> None:
    share, _ = shares_and_partners("cutmix")
    assert set(share.unique().tolist()) == {0.0, 1.0}
    boxes = share.bool()
    rows, columns = boxes.any(2), boxes.any(1)
    assert torch.equal(boxes, rows[:, :, None] & columns[:, None, :])
    for line in (rows, columns):
        starts = (line[:, 1:] & ~line[:, :-1]).sum(1) + line[:, 0]
        assert starts.max() == 1


def test_boxes_of_cutmix_follow_its_equation() -> None:
    share, _ = shares_and_partners("cutmix")
    boxes = share.bool()
    rows, columns = boxes.any(2), boxes.any(1)
    # Boxes that touch no edge have not been cut: they have the image's proportions.
    inside = ~(rows[:, 0] | rows[:, -1] | columns[:, 0] | columns[:, -1]) & rows.any(1)
    heights, widths = rows.sum(1)[inside], columns.sum(1)[inside]
    assert inside.sum() > 50
    assert (heights / HEIGHT - widths / WIDTH).abs().max() <= 2 / HEIGHT
    assert (heights.remainder(2) + widths.remainder(2)).max() == 0
    # Eq. 2 with a uniform share: the box without its cuts has sides of sqrt(1 - share), of which
    # each half is rounded down; the mean over its place and share is what the image's edges leave.
    fine = torch.rand(400_000, 3, generator=torch_generator(1), dtype=torch.float64)
    side = fine[:, 0].sqrt()
    covered = torch.ones(len(fine), dtype=torch.float64)
    for axis, length in ((1, HEIGHT), (2, WIDTH)):
        half = (side * length / 2).floor()
        centre = (fine[:, axis] * length).floor()
        covered *= (centre + half).clamp(max=length) - (centre - half).clamp(min=0)
    expected = covered / (HEIGHT * WIDTH)
    found = share.mean((1, 2))
    error = (expected.var() / BATCH).sqrt()
    assert abs(found.mean() - expected.mean()) < 4 * error


def test_centres_of_boxes_are_uniform() -> None:
    # With such an alpha every share is 1/2, and every box is 8 high and 14 wide before its cuts.
    share, _ = shares_and_partners("cutmix", alpha=1e8)

    def covered(length: int, half: int) -> Tensor:
        centres = torch.arange(length)
        distance = torch.arange(length)[:, None] - centres
        return ((distance >= -half) & (distance < half)).double().mean(1)

    expected = covered(HEIGHT, 4)[:, None] * covered(WIDTH, 7)
    errors = (share.mean(0) - expected) / (expected * (1 - expected) / BATCH).sqrt()
    # The largest of 240 nearly normal errors.
    assert errors.abs().max() < 4.5


def test_single_image_is_its_own_partner() -> None:
    image = torch.rand(1, 3, 5, 5)
    for mixing in ("mixup", "cutmix"):
        (result,) = mixed([image], settings(mixing), torch_generator(0))
        assert torch.equal(result, image)


def test_mixtures_of_equal_images_are_those_images() -> None:
    image = torch.rand(1, 3, 5, 5).expand(50, -1, -1, -1)
    for mixing in ("mixup", "cutmix"):
        (result,) = mixed([image], settings(mixing), torch_generator(0))
        assert torch.equal(result, image)
