"""The saved view of an experiment's page, as MLflow's bundle unpacks it."""

import base64
import json
import zlib
from typing import Any

from tests.cases import cases
from tune.mlflow.page import page_state
from tune.space import DENOISER_TRIALS
from tune.sweep_file import load_sweep

SWEPT = ["sigma", "interpolation.count"]


def unpacked(paths: list[str]) -> dict[str, Any]:
    head, _, packed = page_state(DENOISER_TRIALS, paths).partition(";")
    assert head == "deflate"
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert isinstance(state, dict)
    return state


def test_charts_lie_in_sections_that_are_open() -> None:
    state = unpacked(SWEPT)
    shown = {s["uuid"]: s["name"] for s in state["compareRunSections"] if s["display"]}
    charts = [chart for chart in state["compareRunCharts"] if not chart["deleted"]]
    assert {chart["metricSectionId"] for chart in charts} == set(shown)
    assert len({chart["uuid"] for chart in charts}) == len(charts)
    assert list(shown.values()) == [
        "Certificates",
        "Search",
        "Settings",
        "Losses",
    ]


def test_curves_are_drawn_over_the_radius_which_is_no_chart_itself() -> None:
    charts = {chart.get("metricKey"): chart for chart in unpacked([])["compareRunCharts"]}
    for split in ("held_out", "test"):
        curve = charts[f"certified/{split}"]
        assert (curve["xAxisKey"], curve["selectedXAxisMetricKey"]) == (
            "metric",
            "certified/L2 radius",
        )
    assert charts["certified/L2 radius"]["deleted"]


def test_settings_are_drawn_beside_the_score_where_any_is_swept() -> None:
    [parallel] = [c for c in unpacked(SWEPT)["compareRunCharts"] if "selectedParams" in c]
    assert parallel["selectedParams"] == SWEPT
    assert parallel["selectedMetrics"] == ["held_out/average_certified_radius"]
    assert not any("selectedParams" in chart for chart in unpacked([])["compareRunCharts"])


@cases("preset", ["quickstart", "cifar10"])
def test_axes_have_the_choices_that_users_make(preset: str) -> None:
    [parallel] = [
        chart
        for chart in unpacked([*load_sweep(preset).space])["compareRunCharts"]
        if "selectedParams" in chart
    ]
    weights = ("label_consistency", "cosine", "mmd", "discriminator")
    assert set(parallel["selectedParams"]) >= {
        *(f"training.loss_weights.{name}" for name in weights),
        "interpolation.mixing_coefficient",
        "interpolation.count",
        "boundary.attack",
        "denoiser.source",
    }


def test_a_large_space_fits_into_the_tag_of_any_server() -> None:
    paths = [f"training.loss_weights.setting_{n}" for n in range(100)]
    assert len(page_state(DENOISER_TRIALS, paths)) < 5000
