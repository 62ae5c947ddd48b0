"""Every augmentation keeps what an image is; crop and flip against a loop over pixels."""

from collections import Counter
from itertools import product
from typing import get_args

import pytest
import torch
from scipy.stats import binomtest, chisquare
from torch import Tensor

from decrop.config import AugmentationPolicy, AugmentationSettings, Mixing
from decrop.data.augmentation import MIXINGS, POLICIES, augment_views, mixed, moved
from decrop.seeds import torch_generator
from tests.cases import cases

# Shift down, shift right, flipped.
Draw = tuple[int, int, bool]


def settings(padding: int, flip: float, views: str = "matched") -> AugmentationSettings:
    return AugmentationSettings.model_validate(
        {"crop_padding": padding, "flip_probability": flip, "views": views}
    )


POLICY_AND_MIXING = list(product(POLICIES, MIXINGS))


def settings_of(
    policy: AugmentationPolicy, mixing: Mixing, views: str = "matched"
) -> AugmentationSettings:
    return AugmentationSettings.model_validate(
        {"policy": policy, "mixing": mixing, "views": views, "crop_padding": 2}
    )


def random_images(*, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return images that reach both ends of [0,1], whose pixels all differ within a channel."""
    values = torch.rand(24, 3, 8, 10, generator=torch_generator(seed), dtype=dtype)
    low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
    return (values - low) / (high - low)


def test_registries_have_what_the_schema_allows() -> None:
    assert set(POLICIES) == set(get_args(AugmentationPolicy))
    assert set(MIXINGS) == set(get_args(Mixing))


@pytest.mark.parametrize(("policy", "mixing"), POLICY_AND_MIXING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_dtype_and_range_are_kept(
    policy: AugmentationPolicy, mixing: Mixing, dtype: torch.dtype
) -> None:
    images = random_images(dtype=dtype)
    before = images.clone()
    (augmented,) = augment_views([images], settings_of(policy, mixing), torch_generator(0))
    assert augmented.shape == images.shape
    assert augmented.dtype == dtype
    assert 0 <= augmented.min() <= augmented.max() <= 1
    assert torch.equal(images, before)
    assert torch.equal(augmented, images) == (policy == mixing == "none")


@pytest.mark.parametrize(("policy", "mixing"), POLICY_AND_MIXING)
@pytest.mark.parametrize("views", ["matched", "independent"])
def test_draws_follow_the_generator_only(
    policy: AugmentationPolicy, mixing: Mixing, views: str
) -> None:
    def augmented(seed: int) -> Tensor:
        images = [random_images(seed=view) for view in range(3)]
        result = augment_views(images, settings_of(policy, mixing, views), torch_generator(seed))
        return torch.stack(result)

    torch.manual_seed(0)
    first = augmented(6)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(first, augmented(6))
    assert torch.equal(torch.get_rng_state(), state)
    if (policy, mixing) != ("none", "none"):
        assert not torch.equal(first, augmented(7))


@cases(("policy", "mixing"), POLICY_AND_MIXING)
def test_matched_views_share_all_draws(policy: AugmentationPolicy, mixing: Mixing) -> None:
    images = random_images()
    views = augment_views(
        [images, images / 2, images / 4], settings_of(policy, mixing), torch_generator(4)
    )
    for share, view in zip((1, 2, 4), views, strict=True):
        torch.testing.assert_close(share * view, views[0], rtol=0, atol=1e-6)


@cases(("policy", "mixing"), [both for both in POLICY_AND_MIXING if both != ("none", "none")])
def test_independent_views_share_none(policy: AugmentationPolicy, mixing: Mixing) -> None:
    images = random_images()
    views = augment_views(
        [images] * 3, settings_of(policy, mixing, "independent"), torch_generator(5)
    )
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        changed = (views[one] != views[other]).flatten(1).any(1)
        assert changed.float().mean() > 0.5


def test_mixing_comes_after_the_policy() -> None:
    images, both = random_images(), settings_of(3, "cutmix")
    generator = torch_generator(8)
    (expected,) = mixed(moved([images], both, generator), both, generator)
    (augmented,) = augment_views([images], both, torch_generator(8))
    assert torch.equal(augmented, expected)


def distinct_images(batch: int, channels: int, height: int, width: int) -> Tensor:
    """Images of which no pixel has the value of another, none zero."""
    count = batch * channels * height * width
    return torch.arange(1.0, count + 1).reshape(batch, channels, height, width)


def explicit(image: Tensor, padding: int, draw: Draw) -> Tensor:
    """Pad with zeros, crop at (top, left), then flip, pixel by pixel."""
    top, left, flip = draw
    channels, height, width = image.shape
    result = torch.zeros_like(image)
    for channel, row, column in product(range(channels), range(height), range(width)):
        source_row, source_column = row + top - padding, column + left - padding
        if 0 <= source_row < height and 0 <= source_column < width:
            to = width - 1 - column if flip else column
            result[channel, row, to] = image[channel, source_row, source_column]
    return result


def draws_of(images: Tensor, augmented: Tensor, padding: int) -> list[Draw]:
    """Find the one draw that explains each augmented image."""
    shifts = range(2 * padding + 1)
    found = []
    for image, result in zip(images, augmented, strict=True):
        explaining = [
            draw
            for draw in product(shifts, shifts, (False, True))
            if torch.equal(explicit(image, padding, draw), result)
        ]
        assert len(explaining) == 1
        found.append(explaining[0])
    return found


def test_draws_are_uniform_over_crops_and_independent_of_the_flip() -> None:
    images = distinct_images(1, 1, 3, 3).expand(900, -1, -1, -1)
    (augmented,) = augment_views([images], settings(1, 0.3), torch_generator(1))
    # Each distinct result is explained once.
    results, inverse = augmented.unique(dim=0, return_inverse=True)
    draws = draws_of(images[: len(results)], results, padding=1)
    counts = Counter(draws[index] for index in inverse.tolist())
    assert len(counts) == 18
    expected = [900 / 9 * (0.3 if flip else 0.7) for _, _, flip in counts]
    assert chisquare(list(counts.values()), expected).pvalue > 1e-3


def test_independent_views_do_not() -> None:
    images = distinct_images(200, 1, 3, 4)
    views = [images, images + 1000, images + 4000]
    augmented = augment_views(views, settings(1, 0.5, "independent"), torch_generator(5))
    draws = [draws_of(view, result, 1) for view, result in zip(views, augmented, strict=True)]
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        equal = sum(a == b for a, b in zip(draws[one], draws[other], strict=True))
        assert binomtest(equal, 200, 1 / 18).pvalue > 1e-3
