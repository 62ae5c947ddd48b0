"""A chart of the page, as plotly.js takes it: data alone; colours are the page's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from decrop.evaluation.table import CertificateTable
from tune.finished_trials import finite

Trace = dict[str, Any]

# Of a name in a legend.
LONGEST_NAME = 40
NEUTRAL = "neutral"


@dataclass(frozen=True)
class Shown:
    """A denoiser, or none, that is certified on test images.

    Attributes:
        key: by which its traces are toggled.
        colour: number of it in the page's palette, or neutral.
        history: one record an epoch of its training.
    """

    key: str
    name: str
    colour: int | str
    table: CertificateTable
    history: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Chart:
    """A chart, with what it shows in words.

    Attributes:
        caption: how to read it.
        spoken: what a screen reader says instead of the picture.
    """

    id: str
    title: str
    caption: str
    spoken: str
    data: Sequence[Trace]
    layout: Mapping[str, Any]
    wide: bool = False

    def figure(self) -> dict[str, Any]:
        """Return traces and layout."""
        return {"data": list(self.data), "layout": dict(self.layout)}


def literal(text: str) -> str:
    """Return a text that plotly.js shows as it is: tags, %{…} and $…$ mean something to it."""
    return escape(text, quote=False).replace("%", "&#37;").replace("$", "&#36;")


def spaced(count: int, most: int) -> NDArray[np.int64]:
    """Return the places of at most so many of `count` points, first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def rounded(value: float | None) -> float | None:
    """Return five significant digits, and what is not finite as a gap."""
    found = finite(value)
    return None if found is None else float(f"{found:.5g}")


def rounded_values(values: ArrayLike) -> list[float | None]:
    return [rounded(value) for value in np.asarray(values, dtype=np.float64).tolist()]


def note(text: str, x: float, y: float, *, size: int = 12, **others: Any) -> dict[str, Any]:
    """Return an annotation without an arrow."""
    return {
        "text": text,
        "x": x,
        "y": y,
        "xref": "paper",
        "yref": "paper",
        "showarrow": False,
        "font": {"size": size},
        **others,
    }


def cut(text: str, most: int = 22) -> str:
    """Return a text of at most so many characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def role_of(one: Shown, role: str) -> Trace:
    """Return what all traces of something certified have, by which the page colours them."""
    return {
        "name": literal(cut(one.name, LONGEST_NAME)),
        "legendgroup": one.key,
        "meta": {"entry": one.key, "colour": one.colour, "role": role},
    }
