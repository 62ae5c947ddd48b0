"""The experiment's page in MLflow: which charts it opens with, as a saved view of MLflow 3."""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tune.projection.names import (
    BEST_SO_FAR,
    CERTIFIED,
    CURVE_RADIUS,
    SCORE,
    TRIAL_NUMBER,
)

# MLflow adds a chart for every metric that has none, to the section called like its prefix: these
# are folded until someone opens one.
_FOLDED_SECTIONS = ("held_out", "test", "train", "stage1", "seconds", "System metrics")
# Drawn in one chart; MLflow's own number is 10.
_RUNS = 500
# An axis a setting; more are not legible side by side.
_MOST_AXES = 12
_DENOISER_LOSSES = ("total", "label_consistency", "cosine_similarity", "mmd", "discriminator")
_CLASSIFIER_LOSSES = ("total", "cross_entropy", "runner_up_cross_entropy", "accuracy")


@dataclass(frozen=True)
class _Section:
    """Charts below one title, so many side by side."""

    name: str
    charts: Sequence[Mapping[str, Any]]
    columns: int


def page_state(sweep: Mapping[str, Any]) -> str:
    """Return the saved view of a sweep's experiment, as the value of MLflow's tag.

    Args:
        sweep: the sweep's settings as JSON, of which its `space` and `rows` are read.
    """
    paths = swept_paths(sweep)
    losses = _CLASSIFIER_LOSSES if trains_classifiers(sweep) else _DENOISER_LOSSES
    # MLflow's titles of these charts are the names of their metrics, whatever the view says.
    sections = [
        _Section(
            "Certified accuracy",
            [
                _line(f"{CERTIFIED}/held_out", over=CURVE_RADIUS),
                _line(f"{CERTIFIED}/test", over=CURVE_RADIUS),
            ],
            columns=2,
        ),
        _Section(
            "Search",
            [
                _line(BEST_SO_FAR, over=TRIAL_NUMBER),
                _line(SCORE),
                {**_chart("ranking", "BAR"), "metricKey": SCORE},
            ],
            columns=3,
        ),
        _Section("Settings and held-out radius", [_parallel(paths)] if paths else [], columns=1),
        _Section(
            "Losses",
            [_line(f"train/{term}") for term in losses],
            columns=3,
        ),
    ]
    # Axes of other charts: without these MLflow would make each a chart of its own.
    axes = [{**_line(name), "deleted": True} for name in (CURVE_RADIUS, TRIAL_NUMBER)]
    shown = [section for section in sections if section.charts]
    state = {
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
        "isAccordionReordered": True,
        "compareRunSections": [
            *(_section(section.name, display=True, columns=section.columns) for section in shown),
            *(_section(name, display=False, columns=3) for name in _FOLDED_SECTIONS),
        ],
        "compareRunCharts": [
            {**chart, "metricSectionId": section.name}
            for section in [*shown, _Section(_FOLDED_SECTIONS[0], axes, columns=3)]
            for chart in section.charts
        ],
        "selectedColumns": [f"metrics.`{SCORE}`", *(f"params.`{path}`" for path in paths)],
        "orderByKey": f"metrics.`{SCORE}`",
        "orderByAsc": False,
    }
    packed = zlib.compress(json.dumps(state, separators=(",", ":")).encode(), level=9)
    return "deflate;" + base64.b64encode(packed).decode()


def swept_paths(sweep: Mapping[str, Any]) -> list[str]:
    """Return the settings in which a sweep's trials differ, by dotted path, as in its file."""
    if sweep.get("space"):
        return list(sweep["space"])
    rows: Mapping[str, Mapping[str, Any]] = sweep.get("rows") or {}
    return list(dict.fromkeys(path for row in rows.values() for path in row))


def trains_classifiers(sweep: Mapping[str, Any]) -> bool:
    """Tell whether a sweep's trials train classifiers and no denoiser, as its file has it."""
    trial: Mapping[str, Any] = sweep.get("trial") or {}
    return (trial.get("denoiser") or {}).get("architecture") == "none"


def _parallel(paths: Sequence[str]) -> dict[str, Any]:
    return {
        **_chart("settings", "PARALLEL"),
        "selectedParams": list(paths[:_MOST_AXES]),
        "selectedMetrics": [SCORE],
        "showAllRuns": True,
    }


def _line(metric: str, *, over: str | None = None) -> dict[str, Any]:
    return {
        **_chart(metric, "LINE"),
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "lineSmoothness": 0,
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "xAxisKey": "step" if over is None else "metric",
        "selectedXAxisMetricKey": over or "",
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": True,
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "range": {},
        "ignoreOutliers": False,
    }


def _chart(identifier: str, kind: str) -> dict[str, Any]:
    return {
        "uuid": identifier,
        "type": kind,
        "runsCountToCompare": _RUNS,
        "deleted": False,
        "isGenerated": False,
    }


def _section(name: str, *, display: bool, columns: int) -> dict[str, Any]:
    return {
        "uuid": name,
        "name": name,
        "display": display,
        "columns": columns,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
    }
