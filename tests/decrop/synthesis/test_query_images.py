"""Images that a black box is asked about: what they are made of, and that they do not change."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from decrop.config import SurrogateSettings
from decrop.errors import InputError
from decrop.synthesis.query_images import PIECE, further_images, further_pieces
from tests.cases import cases


def settings(**given: Any) -> SurrogateSettings:
    return SurrogateSettings.model_validate(given)


def pieces(count: int, images: Tensor | None = None, seed: int = 0, **given: Any) -> list[Tensor]:
    images = limited_images() if images is None else images
    return list(further_pieces(images, count, settings(**given), seed=seed))


def limited_images(count: int = 3, size: int = 8) -> Tensor:
    """Image i is filled with the value 40 (i + 1)."""
    values = 40 * (torch.arange(count) + 1)
    return values[:, None, None, None].expand(-1, 1, size, size).to(torch.uint8)


def test_shares_add_up_to_the_count() -> None:
    for count in (0, 1, 7, PIECE + 13):
        for mixed, generated in ((0.4, 0.2), (0.5, 0.5), (0, 1), (1, 0), (0, 0)):
            made = pieces(count, mixed_share=mixed, generated_share=generated)
            assert sum(map(len, made)) == count
            assert all(0 < len(piece) <= PIECE for piece in made)
            assert all(piece.dtype == torch.uint8 for piece in made)


def test_moved_images_are_limited_images_moved() -> None:
    (made,) = pieces(60, mixed_share=0, generated_share=0, crop_padding=2)
    found = set()
    for image in made:
        # Zeros come in from the padding, at most two rows and columns of them.
        values = set(image[image > 0].tolist())
        assert len(values) == 1
        found |= values
        assert (image > 0).sum() >= 36
    assert found == {40, 80, 120}
    assert any((image == 0).any() for image in made)


def test_mixtures_are_half_blends_and_half_patchworks() -> None:
    blends, patchworks = pieces(200, mixed_share=1, generated_share=0, augmentation_policy="none")
    assert len(blends) == len(patchworks) == 100
    plain = {40, 80, 120}
    assert all(len(image.unique()) == 1 for image in blends)
    assert len(blends.unique()) > 20
    assert set(patchworks.unique().tolist()) <= plain
    assert sum(len(image.unique()) == 2 for image in patchworks) > 20


def test_generated_images_do_not_depend_on_the_limited_ones() -> None:
    first = pieces(20, mixed_share=0, generated_share=1)
    others = pieces(20, 255 - limited_images(), mixed_share=0, generated_share=1)
    assert torch.equal(first[0], others[0])
    assert len(first[0].flatten(1).unique(dim=0)) == 20


@pytest.mark.slow
def test_pieces_are_repeatable_and_go_on_with_a_higher_count() -> None:
    few, again, other = (pieces(500, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(*pair) for pair in zip(few, again, strict=True))
    assert not torch.equal(few[0], other[0])
    many = pieces(5000)
    kinds = (0, 8, 12, 16)  # where moved, blended, cut and generated images begin
    for piece, position in zip(few, kinds, strict=True):
        assert torch.equal(piece, many[position][: len(piece)])


def test_limited_images_need_a_query_each() -> None:
    assert further_images(settings(queries=40), 40) == 0
    with pytest.raises(InputError, match=r"classifier\.surrogate\.queries 39: must be at least 40"):
        further_images(settings(queries=39), 40)


@cases(
    "wrong",
    [
        {"queries": 0},
        {"architecture": "vgg"},
        {"mixed_share": 0.6, "generated_share": 0.5},
        {"mixed_share": -0.1},
        {"augmentation_policy": "none"},
        {"epochs": 0},
        {"seed": 1},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SurrogateSettings.model_validate(wrong)
