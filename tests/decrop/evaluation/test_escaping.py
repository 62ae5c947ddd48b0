"""Names with signs that figures, Markdown and LaTeX take for their own are shown as they are."""

import io
import os
from collections.abc import Callable

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from decrop.evaluation.escaping import figure_text, latex_text, markdown_text
from tests.cases import cases

NAMES = ["$x$ 5", "a\\$b$", "_under", "[red]b[/red]", "50%20?#", "ümlaut <b>", "|p* `~^&\\"]


@cases("name", NAMES)
def test_a_figure_shows_a_name_in_its_legend_as_it_is(name: str) -> None:
    figure = Figure()
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([0, 1], label=figure_text(name))
    (shown,) = axes.legend().get_texts()
    figure.savefig(io.BytesIO())
    # What is drawn, by matplotlib's own reading of it.
    drawn, mathematics = shown._preprocess_math(shown.get_text())  # type: ignore[attr-defined]
    assert (drawn.removeprefix("\u200b"), bool(mathematics)) == (name, False)


def test_a_name_that_is_no_utf_8_is_escaped() -> None:
    name = os.fsdecode(b"caf\xe9")
    for shown in (figure_text, markdown_text):
        assert shown(name).replace("\\\\", "\\") == "caf\\udce9"
    assert latex_text(name).isascii()


@pytest.mark.parametrize(
    ("shown", "text", "expected"),
    [
        (markdown_text, "a [b](c) <i> &lt; _d_ *e* $f$ g|h", None),
        (markdown_text, "snake_case, p < 0.05, [3], 50 % & more", "as it is"),
        (latex_text, "a_b~c^d\\", r"a\_b\textasciitilde{}c\textasciicircum{}d\textbackslash{}"),
    ],
)
def test_signs_are_escaped_where_they_mean_something(
    shown: Callable[[str], str], text: str, expected: str | None
) -> None:
    if expected is None:
        expected = r"a [b\](c) &lt;i> &amp;lt; \_d\_ \*e\* &#36;f&#36; g\|h"
    assert shown(text) == (text if expected == "as it is" else expected)
