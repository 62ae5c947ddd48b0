"""Charts of the search: its history, what settings matter, and trials over their settings."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from decrop.wording import counted
from tune.domains import Domain, Space
from tune.finished_trials import FinishedTrial, finite
from tune.results.html.charts import (
    NEUTRAL,
    Chart,
    Shown,
    Trace,
    cut,
    literal,
    note,
    role_of,
    rounded,
)
from tune.results.metric import Metric, pareto_front
from tune.results.ranking import REFERENCE
from tune.study import Importances

# Trials that are drawn and listed one by one, the best.
MOST_TRIALS = 1_000
_MOST_AXES = 12
# Lines of one colour are one trace, which is quick for thousands of trials.
_SHADES = 6
_FEW_LINES = 100
# On an axis from 0 to 1: where a trial stands that has no such setting.
_NOT_SET = -0.14


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
        "pruned, last score": (pruned, NEUTRAL, "circle-open"),
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
            "y": [rounded(score) for _, score in steps],
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
            "y": [rounded(score) for score in scores.values()],
            "text": [literal(names.get(number, f"trial {number}")) for number in scores],
            "type": "scatter",
            "mode": "markers",
            "marker": {"symbol": symbol, "size": 9 if name == "reference" else 7},
            "hovertemplate": "%{text}: %{y:.4g}<extra>%{fullData.name}</extra>",
        }
        for name, (scores, colour, symbol) in marks.items()
        if scores
    ]
    ended = counted(len(complete), "complete trial")
    if pruned:
        ended = f"{len(complete)} complete and {counted(len(pruned), 'pruned trial')}"
    return Chart(
        "history",
        "Search history",
        f"{_capitalised(objective.phrase)} on held-out images, by the trial's number.",
        f"{ended}; the best score is {best:.4g}.",
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
                "x": [rounded(100 * found.shares[path]) for path in paths],
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
                "x": [rounded(points[n][0]) for n in numbers],
                "y": [rounded(points[n][1]) for n in numbers],
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
            traces.append({**lines, **role_of(one, "line"), "line": {"width": 3}})
    last = len(axes) - 1
    most = f", of the {len(paths)} most important settings" if len(paths) < len(space) else ""
    annotations = [
        note(
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
    return _Axis(path, places, [(i * step, literal(cut(c))) for i, c in enumerate(choices)])


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


def _wrapped(path: str, width: int = 13) -> str:
    """Break a dotted path into short lines, for it stands below a narrow axis."""
    lines = [""]
    for part in re.split(r"(?<=[._ ])", path):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(cut(line, 2 * width) for line in lines[:5])
