"""The experiment's page in MLflow: its charts as a saved view, and its description."""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decrop.evaluation.escaping import markdown_text
from decrop.wording import counted
from tune.directory import SweepDirectory, SweepRecord
from tune.mlflow.measurements import STEPS_PER_UNIT_RADIUS
from tune.mlflow.run_view import (
    BEST_SO_FAR,
    CERTIFIED,
    CURVE_RADIUS,
    TRIAL_NUMBER,
    objective_key,
)
from tune.results.leaderboard import read_leaderboard
from tune.results.metric import Metric
from tune.results.tables import accuracy_table
from tune.space import DENOISER_TRIALS, TrialKind, sweep_kind

# MLflow adds a chart for every metric that has none, to the section called like its prefix: these
# are folded until someone opens one.
_FOLDED_SECTIONS = ("held_out", "test", "train", "stage1", "seconds", "System metrics")
# Drawn in one chart; MLflow's own number is 10.
_RUNS = 500
# An axis a setting; more are not legible side by side.
_MOST_AXES = 12


@dataclass(frozen=True)
class _Section:
    """Charts below one title, so many side by side."""

    name: str
    charts: Sequence[Mapping[str, Any]]
    columns: int


def page_state(
    kind: TrialKind, paths: Sequence[str] = (), objectives: Sequence[Metric] = (Metric(),)
) -> str:
    """Return the saved view of runs that differ in settings, as the value of MLflow's tag.

    Args:
        paths: of settings that differ.
        objectives: what is searched for, that which ranks first.
    """
    scores = [objective_key(objective) for objective in objectives]
    score = scores[0]
    # MLflow's titles of these charts are the names of their metrics, whatever the view says; three
    # side by side are cut off in a window of 1440 pixels.
    sections = [
        _Section(
            "Certificates",
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
                *map(_line, scores),
                {**_chart("ranking", "BAR"), "metricKey": score},
            ],
            columns=2,
        ),
        _Section("Settings", [_parallel(paths, scores)] if paths else [], columns=1),
        _Section(
            "Losses",
            [_line(f"train/{term}") for term in kind.losses],
            columns=2,
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
        "selectedColumns": [f"metrics.`{score}`", *(f"params.`{path}`" for path in paths)],
        "orderByKey": f"metrics.`{score}`",
        "orderByAsc": False,
    }
    packed = zlib.compress(json.dumps(state, separators=(",", ":")).encode(), level=9)
    return "deflate;" + base64.b64encode(packed).decode()


def _parallel(paths: Sequence[str], scores: Sequence[str]) -> dict[str, Any]:
    return {
        **_chart("settings", "PARALLEL"),
        "selectedParams": list(paths[:_MOST_AXES]),
        "selectedMetrics": list(scores),
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


def sweep_description(directory: SweepDirectory, record: SweepRecord) -> str:
    """Describe a sweep in Markdown: what won once that is known, what was swept, its settings.

    MLflow shows the first line until someone opens the rest.
    """
    return "\n".join(
        [
            *sweep_outcome(directory, record),
            f"## What was swept\n\n{_swept(record)}\n",
            f"## How to read this page\n\n{_legend(record)}",
            f"Created {record.created:%Y-%m-%d %H:%M:%S} UTC, id `{record.id}`. Settings:\n",
            f"```json\n{json.dumps(record.sweep.model_dump(mode='json'), indent=2)}\n```\n",
        ]
    )


def sweep_outcome(directory: SweepDirectory, record: SweepRecord) -> list[str]:
    """Say in Markdown what won, with the leaderboard, or that it is not known yet.

    The first line is plain, for the list of experiments shows it as it is.
    """
    board = read_leaderboard(directory)
    if board is None:
        searched = sweep_kind(record.sweep).searched
        return [f"A sweep over {searched}, not finished yet.\n"]
    return [
        f"{markdown_text(board.summary)}\n",
        f"## Leaderboard\n\n{accuracy_table(board).markdown()}",
    ]


def _swept(record: SweepRecord) -> str:
    sweep = record.sweep
    if sweep.search == "rows":
        rows = ", ".join(map(markdown_text, sweep.rows))
        return f"A table of rows, each with its own settings: {rows}."
    lines = [
        f"{counted(sweep.trials, 'trial') if sweep.trials else 'All trials'} by search "
        f"`{sweep.search}` over\n"
    ]
    for path, domain in sweep.space.items():
        lines.append(f"- `{path}`: {markdown_text(domain.model_dump_json(exclude_defaults=True))}")
    return "\n".join(lines)


def _legend(record: SweepRecord) -> str:
    kind = sweep_kind(record.sweep)
    trials = kind.legend
    if record.sweep.search == "rows" and kind is DENOISER_TRIALS:
        trials = (
            "- A run named like a row of the table is scored on held-out images.\n"
            "- A run whose name ends in `(test)` is a row trained again on all limited data and "
            "certified once on the test split; `undefended (test)` has no denoiser.\n"
        )
    return (
        f"{trials}"
        "- `certified/…`: certified accuracy over the L2 radius ([0,1] pixels); where MLflow shows "
        f"a step instead, it is the radius × {STEPS_PER_UNIT_RADIUS}.\n"
        "- `train/…`: over epochs. `held_out/…`: over evaluations; a pruned trial has its last.\n"
        "- The run named like the sweep has the leaderboard and a report with charts of it all.\n"
    )
