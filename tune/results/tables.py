"""Tables of results as Markdown and LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from decrop.evaluation.table import Shares
from decrop.trial.result import radius_key
from tune.results.paired import Comparison, Comparisons

_LATEX_SIGNS = {"\\": r"\textbackslash{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}}
SHARES_HEADS = ("certified correct", "misclassified", "abstained")
SHARES_CAPTION = (
    "images certified correct, misclassified (a wrong class was selected, certified or not; where "
    "a table does not tell, those certified) and abstained on, in %"
)


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


def difference_cell(comparison: Comparison) -> str:
    """Write a difference in points with its interval and p-value."""
    return (
        f"{comparison.points:+.1f} ({comparison.low:+.1f} to {comparison.high:+.1f}), "
        f"p = {comparison.holm_p_value:.2g}"
    )


def share_cells(shares: Shares) -> list[str]:
    """Write the shares of `SHARES_HEADS` in percent."""
    return [
        f"{100 * share:.1f}" for share in (shares.correct, shares.misclassified, shares.abstained)
    ]


def difference_table(
    opponent: str,
    rows: Sequence[tuple[str, Comparisons]],
    radii: tuple[float, ...],
    remarks: Sequence[str],
    *,
    title: str = "Difference of certified accuracy",
    family: str = " of the table",
    head: str = "",
) -> TextTable:
    """Tabulate differences of certified accuracies.

    Args:
        opponent: that all rows are compared with.
        rows: names and comparisons.
        radii: of the comparisons.
        remarks: how each row was measured otherwise, empty where it was not.
        title: of what the differences are.
        family: of which rows and radii p-values are adjusted over.
        head: of the rows' names.
    """
    caption = (
        f"{title} to {opponent} in points, with 95 % intervals (Bonett and Price); p of the exact "
        "paired test over images (McNemar's for single runs), Holm-adjusted over all rows and radii"
        f"{family}."
    )
    cells = [
        [name, *(difference_cell(comparisons[radius_key(radius)]) for radius in radii)]
        for name, comparisons in rows
    ]
    return with_remarks(TextTable(caption, [head, *radius_heads(radii)], cells), remarks)


def radius_heads(radii: tuple[float, ...]) -> list[str]:
    """Return the heads of a column a radius."""
    return [f"r = {radius:g}" for radius in radii]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
