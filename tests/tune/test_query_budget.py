"""The questions of a sweep to its black box, planned against what is certified and stolen."""

from pathlib import Path
from typing import Any

import pytest

from decrop.errors import InputError
from decrop.trial.query_budget import OPENING, TotalQueries
from tests.decrop.black_box.functions import URL
from tests.tune.runs import TINY, write_sweep
from tune.check import check_sweep
from tune.cluster import Claim, Claims, ClusterSize, Machines
from tune.plan import finals_queries, plan_sweep, sweep_queries
from tune.space import reference_config
from tune.sweep_file import SweepConfig, load_sweep

pytestmark = pytest.mark.usefixtures("one_thread")

QUERIES = 200
BLACK_BOX: dict[str, Any] = {
    "classifier": {
        "source": URL,
        "training": None,
        "surrogate": {"architecture": "small_cnn", "queries": QUERIES, "epochs": 2},
    }
}
ONCE = 20 * (120 + 1)
TABLE = {name: value for name, value in TINY.items() if name in ("name", "base", "trial")}


def sweep(folder: Path, document: dict[str, Any] | None = None, **changes: Any) -> SweepConfig:
    trial = {**BLACK_BOX, **changes.pop("trial", {})}
    return load_sweep(str(write_sweep(folder, document, trial=trial, **changes)))


def queries(loaded: SweepConfig) -> TotalQueries:
    found = sweep_queries(loaded)
    assert found is not None
    return found


def test_the_best_few_trial_0_and_no_denoiser_are_certified(tmp_path: Path) -> None:
    found = queries(sweep(tmp_path))
    assert (found.certifications, found.certifying) == (4, 4 * ONCE)
    assert (found.stealing, found.opening) == (QUERIES, OPENING)
    assert queries(sweep(tmp_path, leaderboard={"top": 9})).certifications == 4 + 1


def test_what_varies_the_images_is_stolen_for_each_trial(tmp_path: Path) -> None:
    urls = [BLACK_BOX["classifier"]["source"], "http://127.0.0.1:5002/invocations"]
    found = queries(sweep(tmp_path, space={"classifier.source": {"choice": urls}}))
    assert found.stealing == 4 * QUERIES
    # Every process opens the endpoint for itself: trials, finals, no denoiser, and the driver.
    assert found.opening == OPENING * (1 + 4 + 3 + 1)


def test_rows_that_ask_the_same_share_the_answers(tmp_path: Path) -> None:
    rows = {
        "few": {},
        "others": {"classifier.surrogate.epochs": 1},
        "many": {"classifier.surrogate.queries": 300},
    }
    found = queries(sweep(tmp_path, TABLE, search="rows", rows=rows, seeds=2))
    assert found.stealing == QUERIES + 300
    assert found.certifications == 6 + 1


def test_the_budget_is_checked_before_anything_starts(tmp_path: Path) -> None:
    fixed = {"certification": {"procedure": "fixed", "estimation_samples": 100}}
    most = queries(sweep(tmp_path, trial=fixed)).most
    for budget, refused in ((most, False), (most - 1, True)):
        endpoint = {"endpoint": {"query_budget": budget}}
        classifier = {"classifier": {**BLACK_BOX["classifier"], **endpoint}}
        loaded = sweep(tmp_path, trial={**fixed, **classifier})
        if refused:
            with pytest.raises(InputError, match=r"classifier\.endpoint\.query_budget"):
                check_sweep(loaded)
        else:
            check_sweep(loaded)
        adaptive = sweep(tmp_path, trial=classifier)
        check_sweep(adaptive)


def test_further_final_trainings_steal_nothing(tmp_path: Path) -> None:
    found = finals_queries([reference_config(sweep(tmp_path))] * 3)
    assert found is not None
    assert (found.stealing, found.certifying) == (0, 3 * ONCE)


def test_a_dry_run_counts_them_and_asks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.plan._PROBE_SECONDS", 0.05)
    core = Claim(cpu=1, gpu=0)
    claims = Claims(trial=core, helper=core, max_helpers=1, max_concurrent=None)
    size = ClusterSize((Machines(cpu=2, gpu=0),))
    loaded = sweep(tmp_path)
    # Nothing listens at the URL.
    assert plan_sweep(loaded, claims, size).queries == queries(loaded).most
    white = load_sweep(str(write_sweep(tmp_path)))
    assert plan_sweep(white, claims, size).queries == 0


def test_the_preset_of_figure_5_steals_once_for_both_architectures() -> None:
    changes = ["dataset.name=digits", "limited.fraction=0.1", "classifier.surrogate.queries=999"]
    loaded = load_sweep("paper_figure5", changes)
    # Networks that take images as small as digits.
    architectures = ("small_cnn", "resnet18")
    rows = {
        name: {**row, "classifier.surrogate.architecture": architecture}
        for (name, row), architecture in zip(loaded.rows.items(), architectures, strict=True)
    }
    loaded = loaded.model_copy(update={"rows": rows})
    found = queries(loaded)
    assert found.stealing == 999
    assert found.certifications == 3
