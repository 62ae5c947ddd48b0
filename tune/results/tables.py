"""Tables of results as Markdown and LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_LATEX_SIGNS = {"\\": r"\textbackslash{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}}


@dataclass(frozen=True)
class TextTable:
    """A table of texts.

    Attributes:
        caption: what it shows, in one sentence or two.
        head: names of the columns.
        rows: as many texts each.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Write caption and table in Markdown."""
        lines = [_line(self.head), f"|{' --- |' * len(self.head)}", *map(_line, self.rows)]
        return f"{self.caption}\n\n" + "\n".join(lines) + "\n"

    def latex(self) -> str:
        """Write a table environment in LaTeX, for the package booktabs."""
        frame = pd.DataFrame(self.rows, columns=list(self.head))
        return frame.to_latex(
            index=False,
            escape=True,
            caption=latex_text(self.caption),
            column_format="l" + "r" * (len(self.head) - 1),
        )


def with_remarks(table: TextTable, remarks: Sequence[str]) -> TextTable:
    """Add a column that says which rows were measured otherwise, unless none was.

    Args:
        table: to add it to.
        remarks: one a row, empty where there is nothing to say.
    """
    if not any(remarks):
        return table
    rows = [[*row, remark] for row, remark in zip(table.rows, remarks, strict=True)]
    return TextTable(table.caption, [*table.head, "measured otherwise"], rows)


def latex_text(text: str) -> str:
    """Return a text whose signs LaTeX does not take for commands."""
    return "".join(_LATEX_SIGNS.get(sign, sign) for sign in text)


def percentage_cell(accuracy: float, low: float, high: float, *, decimals: int = 1) -> str:
    """Write a share and its interval in percent, the interval's ends with so many decimals."""
    return f"{100 * accuracy:.1f} ({100 * low:.{decimals}f}–{100 * high:.{decimals}f})"


def mean_cell(values: Sequence[float] | NDArray[np.float64], form: str) -> str:
    """Write values as mean ± standard deviation, in brackets their number; a single one as it is.

    Args:
        values: of several runs.
        form: of a number, such as `{:.1f}`.
    """
    if len(values) == 1:
        return f"{form.format(values[0])} [1]"
    spread = form.format(np.std(values, ddof=1))
    return f"{form.format(np.mean(values))} ± {spread} [{len(values)}]"


def accuracy_cell(
    values: Sequence[float], interval: tuple[float, float], *, decimals: int = 1
) -> str:
    """Write a certified accuracy in percent: with its interval, of several runs as their mean."""
    if len(values) > 1:
        return mean_cell([100 * value for value in values], "{:.1f}")
    return percentage_cell(values[0], *interval, decimals=decimals)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
