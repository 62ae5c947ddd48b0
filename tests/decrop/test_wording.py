"""Counts and lists in words."""

import pytest

from decrop.wording import counted, joined, times


@pytest.mark.parametrize(
    ("count", "written"),
    [
        (0, "0 trials"),
        (1, "1 trial"),
        (1.0, "1 trial"),
        (0.5, "0.5 trials"),
        (1200, "1,200 trials"),
    ],
)
def test_one_thing_has_no_plural(count: float, written: str) -> None:
    assert counted(count, "trial") == written


def test_a_plural_can_be_given() -> None:
    assert [counted(n, "copy", "copies") for n in (1, 2)] == ["1 copy", "2 copies"]


def test_often_is_once_or_counted() -> None:
    assert [times(n) for n in (1, 2)] == ["once", "2 times"]


@pytest.mark.parametrize(
    ("parts", "written"),
    [((), ""), (("a",), "a"), (("a", "b"), "a and b"), (("a", "b", "c"), "a, b and c")],
)
def test_a_list_has_an_and_before_its_last(parts: tuple[str, ...], written: str) -> None:
    assert joined(parts) == written
