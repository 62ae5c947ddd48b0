"""The charts of the page, as plotly.js takes them: data alone; colours are the page's."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from decrop.evaluation.curves import accuracy_curve, largest_radius, probability_curve, steps_of
from decrop.evaluation.plots import LOSS_TITLES
from decrop.evaluation.table import CertificateTable
from tune.domains import Domain, Space
from tune.finished_trials import FinishedTrial, finite
from tune.results.metric import Metric, pareto_front
from tune.results.ranking import REFERENCE
from tune.study import Importances

Trace = dict[str, Any]

# Trials that are drawn and listed one by one, the best.
MOST_TRIALS = 1_000
# Of points of a curve, evenly spaced ones: a picture has no more pixels.
_MOST_STEPS = 800
_MOST_AXES = 12
_MOST_LOSSES_COLUMNS = 3
# Lines of one colour are one trace, which is quick for thousands of trials.
_SHADES = 6
_FEW_LINES = 100
# Of a legend: of a name, of the line before it, and side by side in half the page.
_LONGEST_NAME, _KEY_CHARACTERS, _LEGEND_CHARACTERS = 40, 8, 60
# On an axis from 0 to 1: where a trial stands that has no such setting.
_NOT_SET = -0.14
_NEUTRAL = "neutral"


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


def accuracy_chart(shown: Sequence[Shown]) -> Chart:
    """Draw certified accuracy over the radius, with exact intervals."""
    largest = largest_radius(one.table for one in shown)
    radii = steps_of(np.concatenate([one.table.radius for one in shown]), largest)
    radii = radii[spaced(len(radii), _MOST_STEPS)]
    traces: list[Trace] = []
    for one in shown:
        curve = accuracy_curve(one.table, radii)
        x, low, high = _numbers(radii), _numbers(100 * curve.low), _numbers(100 * curve.high)
        edge = {"x": x, "type": "scatter", "mode": "lines", "hoverinfo": "skip"}
        for ends, fill in ((low, None), (high, "tonexty")):
            traces.append(
                {
                    **edge,
                    **_role(one, "band"),
                    "y": ends,
                    "showlegend": False,
                    "line": {"width": 0, "shape": "vh"},
                    **({} if fill is None else {"fill": fill}),
                }
            )
        traces.append(
            {
                **edge,
                **_role(one, "line"),
                "y": _numbers(100 * curve.share),
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
                "range": [-0.01 * largest, largest],
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
                    **_role(one, "line"),
                    "x": _numbers(curve[0]),
                    "y": _numbers(100 * curve[1]),
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
            _note(
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
                    **_role(one, "line"),
                    "x": [row["epoch"] for row in told_rows],
                    "y": [_number(row[term]) for row in told_rows],
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


def history_chart(
    past: Sequence[FinishedTrial], objective: Metric, names: Mapping[int, str]
) -> Chart | None:
    """Draw the held-out score of each trial by its number, and the best so far; None without one.

    Of a trial that was pruned it is the last score.
    """
    scores = [(t.number, t.state, v) for t in past if (v := finite(t.value)) is not None]
    complete, pruned = (
        {number: value for number, ended, value in scores if ended == state}
        for state in ("complete", "pruned")
    )
    if not complete:
        return None
    best, steps = float("-inf"), []
    for number in sorted(complete):
        best = max(best, complete[number])
        steps.append((number, best))
    steps.append((max([*complete, *pruned]), best))
    marks = {
        "complete": (complete, 0, "circle"),
        "pruned, last score": (pruned, _NEUTRAL, "circle-open"),
        "reference": (
            {n: v for n, v in complete.items() if n == REFERENCE},
            1,
            "diamond",
        ),
    }
    traces: list[Trace] = [
        {
            "name": "best so far",
            "meta": {"colour": 0, "role": "line"},
            "x": [number for number, _ in steps],
            "y": [_number(score) for _, score in steps],
            "type": "scatter",
            "mode": "lines",
            "line": {"shape": "hv", "width": 2},
            "hoverinfo": "skip",
        }
    ]
    traces += [
        {
            "name": name,
            "meta": {"colour": colour, "role": "mark"},
            "x": list(scores),
            "y": [_number(score) for score in scores.values()],
            "text": [literal(names.get(number, f"trial {number}")) for number in scores],
            "type": "scatter",
            "mode": "markers",
            "marker": {"symbol": symbol, "size": 9 if name == "reference" else 7},
            "hovertemplate": "%{text}: %{y:.4g}<extra>%{fullData.name}</extra>",
        }
        for name, (scores, colour, symbol) in marks.items()
        if scores
    ]
    return Chart(
        "history",
        "Search history",
        f"{_capitalised(objective.phrase)} on held-out images, by the trial's number.",
        f"{len(complete)} complete and {len(pruned)} pruned trials; the best score is {best:.4g}.",
        traces,
        {
            "xaxis": {"title": {"text": "trial"}},
            "yaxis": {"title": {"text": f"{objective.phrase}, held out"}},
        },
    )


def importances_chart(found: Importances) -> Chart:
    """Draw a bar a setting, the first on top."""
    paths = list(found.shares)[::-1]
    return Chart(
        "importances",
        "Importance of settings",
        f"Share of the variance of scores that each setting explains (fANOVA, {found.trials} "
        f"trials at evaluation {found.evaluation}).",
        "; ".join(f"{path} {100 * share:.0f} %" for path, share in found.shares.items()),
        [
            {
                "meta": {"colour": 0, "role": "mark"},
                "x": [_number(100 * found.shares[path]) for path in paths],
                "y": [literal(path) for path in paths],
                "text": [f"{100 * found.shares[path]:.0f}" for path in paths],
                "textposition": "outside",
                "cliponaxis": False,
                "type": "bar",
                "orientation": "h",
                "marker": {},
                "showlegend": False,
                "hovertemplate": "%{y}: %{x:.1f} %<extra></extra>",
            }
        ],
        {
            "xaxis": {"title": {"text": "share of the variance (%)"}},
            "yaxis": {"automargin": True},
            "height": max(280, 24 * len(paths) + 110),
        },
    )


def front_charts(
    outcomes: Mapping[int, Mapping[str, Any]],
    objectives: Sequence[Metric],
    names: Mapping[int, str],
) -> Iterator[Chart]:
    """Draw complete trials by the first objective over each other one, with the Pareto front.

    One that is alone is drawn over the number of weights. Charts in which all trials are alike are
    left out.

    Args:
        outcomes: of complete trials on held-out images (`held_out_results`), by number.
    """
    drawn = objectives if len(objectives) > 1 else [*objectives, Metric(kind="parameters")]
    values = {n: tuple(m.score(outcome) for m in drawn) for n, outcome in outcomes.items()}
    best = pareto_front(values, drawn)
    for position, over in enumerate(drawn[1:]):
        points = {number: (row[position + 1], row[0]) for number, row in values.items()}
        if len({x for x, _ in points.values()}) > 1:
            front = sorted(best, key=lambda number: points[number])
            yield _front_chart(f"front-{position}", drawn[0], over, points, front, names)


def _front_chart(
    identifier: str,
    metric: Metric,
    over: Metric,
    points: Mapping[int, tuple[float, float]],
    front: Sequence[int],
    names: Mapping[int, str],
) -> Chart:
    groups = {
        "complete": (list(points), "markers", 0, "circle"),
        "Pareto front": (front, "lines+markers", 1, "circle-open"),
    }
    return Chart(
        identifier,
        f"{_capitalised(metric.phrase)} over {over.phrase}",
        "Pareto front: no other trial is as good in all objectives and better in one.",
        f"The front holds {', '.join(names.get(n, f'trial {n}') for n in front)}.",
        [
            {
                "name": name,
                "meta": {"colour": colour, "role": "line"},
                "x": [_number(points[n][0]) for n in numbers],
                "y": [_number(points[n][1]) for n in numbers],
                "text": [literal(names.get(n, f"trial {n}")) for n in numbers],
                "type": "scatter",
                "mode": mode,
                "line": {"dash": "dash", "width": 1.5},
                "marker": {"symbol": symbol, "size": 7 if colour == 0 else 12},
                "hovertemplate": "%{text}: %{y:.4g}, %{x:.4g}<extra></extra>",
            }
            for name, (numbers, mode, colour, symbol) in groups.items()
        ],
        {
            "xaxis": {"title": {"text": f"{over.phrase}, held out"}},
            "yaxis": {"title": {"text": f"{metric.phrase}, held out"}},
        },
    )


@dataclass(frozen=True)
class _Axis:
    """A setting as an axis from 0 to 1: where values stand, and the ends or choices by place."""

    title: str
    places: Mapping[int, float]
    marks: Sequence[tuple[float, str]]


def parallel_chart(
    trials: Sequence[FinishedTrial],
    space: Space,
    score: str,
    names: Mapping[int, str],
    certified: Mapping[int, Shown],
    importances: Importances | None = None,
) -> Chart | None:
    """Draw complete trials as lines over their settings, darker the better they are.

    Args:
        certified: those that are certified on test images, by number.
        importances: by which settings are chosen where there are too many to draw.
    """
    complete = [t for t in trials if t.state == "complete" and finite(t.value) is not None]
    if len(complete) < 2 or not space:
        return None
    shares = {} if importances is None else importances.shares
    paths = sorted(space, key=lambda path: -shares.get(path, 0))[: _MOST_AXES - 1]
    paths = [path for path in space if path in paths]
    axes = [_setting_axis(path, space[path], complete) for path in paths]
    scores = {trial.number: float(trial.value or 0.0) for trial in complete}
    axes.append(_number_axis(score, scores, list(scores.values()), log=False))
    by_score = sorted(scores, key=lambda number: scores[number])[-MOST_TRIALS:]
    traces = []
    for shade, numbers in enumerate(np.array_split(by_score, min(_SHADES, len(by_score)))):
        lines = _lines([int(number) for number in numbers], axes, names)
        shades = max(1, min(_SHADES, len(by_score)) - 1)
        strength = round(shade / shades, 2)
        # So many lines would hide each other.
        faded = 1.0 if len(by_score) <= _FEW_LINES else 0.08 + 0.4 * strength
        traces.append(
            {
                **lines,
                "meta": {"role": "line", "shade": strength},
                "showlegend": False,
                "line": {"width": 1.2},
                "opacity": round(faded, 2),
            }
        )
    for number, one in certified.items():
        if number in scores:
            lines = _lines([number], axes, names)
            traces.append({**lines, **_role(one, "line"), "line": {"width": 3}})
    last = len(axes) - 1
    most = f", of the {len(paths)} most important settings" if len(paths) < len(space) else ""
    annotations = [
        _note(
            text, place, y, xref="x", yref="y", xanchor="left", yanchor="middle", xshift=4, size=10
        )
        for place, axis in enumerate(axes)
        for y, text in axis.marks
    ]
    stroke = {"type": "line", "y0": 0, "y1": 1, "xref": "x", "yref": "y", "line": {"width": 1}}
    return Chart(
        "parallel",
        "Settings and score",
        f"A line a complete trial{most}, stronger the better its {score}, which is the last axis; "
        "below an axis where the trial has no such setting. Drag over an axis to pick trials: the "
        "table of trials shows those alone; a double click ends it.",
        "The table of trials below can be sorted by score; tables of settings follow at the end.",
        traces,
        {
            "xaxis": {
                "range": [-0.15, last + 0.5],
                "tickvals": list(range(len(axes))),
                "ticktext": [literal(_wrapped(axis.title)).replace("\n", "<br>") for axis in axes],
                "tickangle": 0,
                "tickfont": {"size": 10},
                "automargin": True,
                "showgrid": False,
                "fixedrange": True,
                "zeroline": False,
            },
            "yaxis": {"range": [-0.2, 1.08], "visible": False, "fixedrange": True},
            "annotations": annotations,
            "shapes": [{**stroke, "x0": place, "x1": place} for place in range(len(axes))],
            "dragmode": "select",
            "height": 500,
        },
        wide=True,
    )


def _lines(numbers: Sequence[int], axes: Sequence[_Axis], names: Mapping[int, str]) -> Trace:
    x: list[float | None] = []
    y: list[float | None] = []
    said: list[str | None] = []
    drawn: list[int | None] = []
    for number in numbers:
        x += [*range(len(axes)), None]
        y += [*(axis.places.get(number, _NOT_SET) for axis in axes), None]
        said += [literal(names.get(number, f"trial {number}"))] * len(axes) + [None]
        drawn += [number] * len(axes) + [None]
    return {
        "x": x,
        "y": y,
        "text": said,
        "customdata": drawn,
        "type": "scatter",
        # Marks are what can be pointed at, and picked.
        "mode": "lines+markers",
        "marker": {"size": 5},
        "hovertemplate": "%{text}<extra></extra>",
    }


def _setting_axis(path: str, domain: Domain, trials: Sequence[FinishedTrial]) -> _Axis:
    values = {t.number: t.parameters[path] for t in trials if path in t.parameters}
    if domain.choice is None:
        numbers = {n: float(value) for n, value in values.items()}
        ends = domain.uniform or domain.loguniform or domain.int or ()
        return _number_axis(
            path, numbers, [*map(float, ends), *numbers.values()], log=bool(domain.loguniform)
        )
    choices = list(dict.fromkeys(map(_said, [*domain.choice, *values.values()])))
    step = 1 / max(1, len(choices) - 1)
    places = {n: round(choices.index(_said(value)) * step, 4) for n, value in values.items()}
    return _Axis(path, places, [(i * step, literal(_cut(c))) for i, c in enumerate(choices)])


def _number_axis(
    title: str, values: Mapping[int, float], spanned: Sequence[float], *, log: bool
) -> _Axis:
    low, high = min(spanned), max(spanned)

    def place(value: float) -> float:
        if high == low:
            return 0.5
        share = np.log(value / low) / np.log(high / low) if log else (value - low) / (high - low)
        return round(float(share), 4)

    places = {number: place(value) for number, value in values.items()}
    return _Axis(title, places, [(0, f"{low:.3g}"), (1, f"{high:.3g}")])


def _capitalised(phrase: str) -> str:
    return f"{phrase[0].upper()}{phrase[1:]}"


def _said(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cut(text: str, most: int = 22) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _wrapped(path: str, width: int = 13) -> str:
    """Break a dotted path into short lines, for it stands below a narrow axis."""
    lines = [""]
    for part in re.split(r"(?<=[._ ])", path):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(_cut(line, 2 * width) for line in lines[:5])


def _role(one: Shown, role: str) -> Trace:
    return {
        "name": literal(_cut(one.name, _LONGEST_NAME)),
        "legendgroup": one.key,
        "meta": {"entry": one.key, "colour": one.colour, "role": role},
    }


def _height(shown: Sequence[Shown]) -> int:
    """Return a chart's height in pixels, with room for the lines of its legend."""
    characters = sum(len(_cut(one.name, _LONGEST_NAME)) + _KEY_CHARACTERS for one in shown)
    return 370 + 22 * -(-characters // _LEGEND_CHARACTERS)


def _dash(one: Shown) -> str:
    return "dot" if one.colour == _NEUTRAL else ("solid", "dash", "dashdot")[int(one.colour) % 3]


def _part(position: int, count: int, *, gap: float) -> tuple[float, float]:
    size = (1 - gap * (count - 1)) / count
    start = position * (size + gap)
    return round(start, 4), round(start + size, 4)


def _note(text: str, x: float, y: float, *, size: int = 12, **others: Any) -> dict[str, Any]:
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


def spaced(count: int, most: int) -> NDArray[np.int64]:
    """Return the places of at most so many of `count` points, first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _number(value: float | None) -> float | None:
    """Return five significant digits, and what is not finite as a gap."""
    found = finite(value)
    return None if found is None else float(f"{found:.5g}")


def _numbers(values: ArrayLike) -> list[float | None]:
    return [_number(value) for value in np.asarray(values, dtype=np.float64).tolist()]
