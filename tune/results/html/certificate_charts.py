"""Charts of what is certified: certified accuracy, probabilities, and losses of the training."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from decrop.evaluation.curves import accuracy_curve, end_of_curves, probability_curve, steps_of
from decrop.evaluation.plots import LOSS_TITLES
from tune.results.html.charts import (
    LONGEST_NAME,
    NEUTRAL,
    Chart,
    Shown,
    Trace,
    cut,
    note,
    role_of,
    rounded,
    rounded_values,
    spaced,
)

# Of points of a curve, evenly spaced ones: a picture has no more pixels.
_MOST_STEPS = 800
_MOST_LOSSES_COLUMNS = 3
# Of a legend: of the line before a name, and side by side in half the page.
_KEY_CHARACTERS, _LEGEND_CHARACTERS = 8, 60


def accuracy_chart(shown: Sequence[Shown]) -> Chart:
    """Draw certified accuracy over the radius, with exact intervals."""
    end = end_of_curves(one.table for one in shown)
    radii = steps_of(np.concatenate([one.table.radius for one in shown]), end)
    radii = radii[spaced(len(radii), _MOST_STEPS)]
    traces: list[Trace] = []
    for one in shown:
        curve = accuracy_curve(one.table, radii)
        x, low, high = (
            rounded_values(radii),
            rounded_values(100 * curve.low),
            rounded_values(100 * curve.high),
        )
        edge = {"x": x, "type": "scatter", "mode": "lines", "hoverinfo": "skip"}
        for ends, fill in ((low, None), (high, "tonexty")):
            traces.append(
                {
                    **edge,
                    **role_of(one, "band"),
                    "y": ends,
                    "showlegend": False,
                    "line": {"width": 0, "shape": "vh"},
                    **({} if fill is None else {"fill": fill}),
                }
            )
        traces.append(
            {
                **edge,
                **role_of(one, "line"),
                "y": rounded_values(100 * curve.share),
                "customdata": [list(ends) for ends in zip(low, high, strict=True)],
                "line": {"width": 2, "shape": "vh", "dash": _dash(one)},
                "hoverinfo": "all",
                "hovertemplate": "%{y:.1f} % (%{customdata[0]:.1f}–%{customdata[1]:.1f})",
            }
        )
    return Chart(
        "accuracy",
        "Certified accuracy over the radius",
        "Share of test images that are certified correct with at least the radius. Bands are exact "
        "95 % intervals of one curve; the tables below compare curves, paired over the images.",
        "Curves of certified accuracy, which fall with the radius; the table after them has their "
        "values.",
        traces,
        {
            "xaxis": {
                "title": {"text": "L2 radius ([0,1] pixels)"},
                "range": [-0.01 * end, end],
                "hoverformat": ".3f",
            },
            "yaxis": {"title": {"text": "certified accuracy (%)"}, "range": [0, 101]},
            "hovermode": "x unified",
            "height": _height(shown),
        },
    )


def probability_chart(shown: Sequence[Shown]) -> Chart | None:
    """Draw the distribution of p_A; None where no table tells it."""
    traces: list[Trace] = []
    for one in shown:
        curve = probability_curve(one.table)
        if curve is not None:
            traces.append(
                {
                    **role_of(one, "line"),
                    "x": rounded_values(curve[0]),
                    "y": rounded_values(100 * curve[1]),
                    "type": "scatter",
                    "mode": "lines",
                    "line": {"width": 2, "shape": "hv", "dash": _dash(one)},
                    "hovertemplate": "p = %{x:.3f}: %{y:.1f} %<extra>%{fullData.name}</extra>",
                }
            )
    if not traces:
        return None
    return Chart(
        "probabilities",
        "Distribution of p_A",
        "Share of test images that are correct and whose class has at least the probability p "
        "under noise, by its lower confidence bound.",
        "Curves that fall from the share of correct images at p = 0.5 to 0 at p = 1.",
        traces,
        {
            "xaxis": {"title": {"text": "p (probability of the class under noise)"}},
            "yaxis": {"title": {"text": "images with p_A ≥ p (%)"}, "range": [0, 101]},
            "height": _height(shown),
        },
    )


def losses_chart(shown: Sequence[Shown]) -> Chart | None:
    """Draw the losses of the denoisers that are certified, a panel each."""
    told = [one for one in shown if one.history]
    terms = [
        term
        for term in LOSS_TITLES
        if any(row.get(term) is not None for one in told for row in one.history)
    ]
    if not terms:
        return None
    columns = min(_MOST_LOSSES_COLUMNS, len(terms))
    rows = -(-len(terms) // columns)
    layout: dict[str, Any] = {
        "annotations": [],
        "height": 250 * rows + 70,
        # Above the titles of the panels.
        "legend": {"y": 1 + 28 / (250 * rows)},
        "margin": {"t": 64},
    }
    traces: list[Trace] = []
    for position, term in enumerate(terms):
        number = "" if position == 0 else str(position + 1)
        row, column = divmod(position, columns)
        left, right = _part(column, columns, gap=0.07)
        bottom, top = _part(rows - 1 - row, rows, gap=0.2 if rows > 1 else 0)
        layout[f"xaxis{number}"] = {
            "domain": [left, right],
            "anchor": f"y{number}",
            "title": {"text": "epoch"} if row == rows - 1 else {},
        }
        layout[f"yaxis{number}"] = {"domain": [bottom, top], "anchor": f"x{number}"}
        layout["annotations"].append(
            note(
                LOSS_TITLES[term],
                (left + right) / 2,
                top,
                xanchor="center",
                yanchor="bottom",
                yshift=4,
            )
        )
        for one in told:
            told_rows = [row for row in one.history if row.get(term) is not None]
            told_rows = [told_rows[at] for at in spaced(len(told_rows), _MOST_STEPS)]
            traces.append(
                {
                    **role_of(one, "line"),
                    "x": [row["epoch"] for row in told_rows],
                    "y": [rounded(row[term]) for row in told_rows],
                    "type": "scatter",
                    # A line of one point is not seen.
                    "mode": "lines" if len(told_rows) > 1 else "markers",
                    "line": {"width": 1.5, "dash": _dash(one)},
                    "xaxis": f"x{number}",
                    "yaxis": f"y{number}",
                    "showlegend": position == 0,
                    "hovertemplate": "epoch %{x}: %{y:.4g}<extra>%{fullData.name}</extra>",
                }
            )
    return Chart(
        "losses",
        "Losses",
        "Terms of the loss over the epochs of the training whose certificates are shown above.",
        f"Curves over epochs of {', '.join(LOSS_TITLES[term] for term in terms)}.",
        traces,
        layout,
        wide=True,
    )


def _height(shown: Sequence[Shown]) -> int:
    """Return a chart's height in pixels, with room for the lines of its legend."""
    characters = sum(len(cut(one.name, LONGEST_NAME)) + _KEY_CHARACTERS for one in shown)
    return 370 + 22 * -(-characters // _LEGEND_CHARACTERS)


def _dash(one: Shown) -> str:
    return "dot" if one.colour == NEUTRAL else ("solid", "dash", "dashdot")[int(one.colour) % 3]


def _part(position: int, count: int, *, gap: float) -> tuple[float, float]:
    size = (1 - gap * (count - 1)) / count
    start = position * (size + gap)
    return round(start, 4), round(start + size, 4)
