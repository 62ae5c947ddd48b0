"""Certified accuracies that the paper's authors report, to put beside ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Annotated

from pydantic import Field

from decrop.config import NonNegative, Settings, Word
from decrop.config.settings import MOST_RADII
from decrop.documents import read_yaml, validated

_Numbers = Annotated[tuple[NonNegative, ...], Field(max_length=MOST_RADII)]
_Rows = Annotated[dict[Word, _Numbers], Field(max_length=1_000)]


class _Published(Settings):
    radii: _Numbers
    tables: Annotated[dict[Word, _Rows], Field(max_length=1_000)]


@dataclass(frozen=True)
class PublishedTable:
    """Published certified accuracies of a table, in %, by row and in the order of `radii`."""

    radii: tuple[float, ...]
    rows: Mapping[str, tuple[float, ...]]


def published_table(sweep_name: str) -> PublishedTable:
    """Return what is published for a sweep preset; without rows where there is nothing."""
    published = _read()
    return PublishedTable(published.radii, published.tables.get(sweep_name, {}))


@cache
def _read() -> _Published:
    file = files("tune") / "published.yaml"
    return validated(_Published, read_yaml(file), source=str(file))
