"""A tiny real table: its rows by name in all that a sweep leaves behind, and their report."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient

from decrop.bundle import load_bundle
from decrop.files import read_json
from tests.commands import decrop, refused
from tests.tune.runs import (
    TINY,
    FinishedSweep,
    finished_sweep,
    running_on,
    tracked_runs,
    write_sweep,
)
from tune.cluster import ClusterSize
from tune.directory import SweepDirectory

ROWS = {
    "DE-CROP": {"training.discriminator_epochs": 0, "limited.fraction": 0.1},
    "denoised smoothing": {"training.objective": "stability"},
}
TABLE: dict[str, Any] = {
    **{name: TINY[name] for name in ("name", "base", "trial", "resources")},
    "search": "rows",
    # Not the first.
    "reference": "denoised smoothing",
    "rows": ROWS,
}
NAMES = ["denoised smoothing", "DE-CROP"]
ALONE = {"trial": {"cpu": 1}, "max_helpers": 0}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def table(local_ray: ClusterSize, tmp_path_factory: pytest.TempPathFactory) -> FinishedSweep:
    folder = tmp_path_factory.mktemp("table")
    # Without helpers and their processes, which take seconds to start.
    file = write_sweep(folder, TABLE, trial={"training": {"epochs": 1}}, resources=ALONE)
    return finished_sweep(local_ray, file)


def test_every_row_is_trained_with_its_settings_and_certified(table: FinishedSweep) -> None:
    directory = table.directory
    assert directory.trial_numbers() == directory.final_numbers() == [0, 1]
    for number, name in enumerate(NAMES):
        trial, final = directory.trial(number).read_record(), directory.final(number).read_record()
        assert trial is not None and trial == final
        assert (trial.row, trial.name, trial.reference) == (name, name, number == 0)
        assert trial.parameters == ROWS[name]
    fractions = [0.08, 0.1]
    records = [directory.trial(number).read_record() for number in range(2)]
    assert [record.config.limited.fraction for record in records if record] == fractions


def test_progress_leaderboard_and_mlflow_speak_of_rows(table: FinishedSweep) -> None:
    said = table.ran.out
    assert "trial 0" not in said and "trial 1" not in said
    for name in NAMES:
        assert f"{name} started" in said and f"{name} complete" in said
        assert f"{name} certified (" in said
    entries = read_json(table.directory.leaderboard_json_path)["entries"]
    assert {entry["number"]: entry["name"] for entry in entries} == dict(enumerate(NAMES))
    assert (
        "| denoised smoothing (reference) |"
        in table.directory.leaderboard_markdown_path.read_text()
    )
    client = MlflowClient(f"sqlite:///{table.directory.mlflow_database_path}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, run_view_type=ViewType.ALL)
    shown = {run.info.run_name: run.data.tags.get("row") for run in runs}
    for name in NAMES:
        assert shown[name] == shown[f"{name} (test)"] == name


def test_rows_with_data_of_their_own_can_be_exported_by_name(
    table: FinishedSweep, tmp_path: Path
) -> None:
    ran = decrop(
        *("export", table.directory.path, "--trial", "DE-CROP"),
        *("--to", tmp_path / "bundle", "--json"),
    )
    assert ran.code == 0, ran.out + ran.err
    assert ran.last_line["trial"] == 1
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.config.limited.fraction == 0.1
    assert "row DE-CROP of its table" in (tmp_path / "bundle" / "README.md").read_text()


@pytest.mark.slow
def test_a_resumed_table_does_what_was_left(
    table: FinishedSweep, local_ray: ClusterSize, tmp_path: Path
) -> None:
    shutil.copytree(table.directory.path, tmp_path / "copied")
    directory = SweepDirectory.open(tmp_path / "copied")
    shutil.rmtree(directory.trial(1).path)
    directory.leaderboard_json_path.unlink()
    before = directory.trial(0).result_path.read_bytes()
    runs = tracked_runs(directory)
    with running_on(local_ray):
        ran = decrop("resume", directory.path, "--json")
    assert ran.code == 0, ran.out + ran.err
    assert "DE-CROP started" in ran.out and "denoised smoothing started" not in ran.out
    assert directory.trial(0).result_path.read_bytes() == before
    for entry in ("best", "reference", "undefended"):
        assert ran.last_line[entry] == table.ran.last_line[entry]
    assert tracked_runs(directory) == runs


def test_its_report_has_each_row_and_the_figure(table: FinishedSweep, tmp_path: Path) -> None:
    ran = decrop("report", table.directory.path, "--to", tmp_path / "report")
    assert ran.code == 0, ran.out + ran.err
    rows = [line.split("|")[1].strip() for line in ran.out.splitlines() if line.startswith("| ")]
    # In the order of the file; the second table is of differences to the reference.
    assert rows == [
        *("denoiser", "---", "DE-CROP", "denoised smoothing", "no denoiser"),
        *("denoiser", "---", "DE-CROP", "no denoiser"),
    ]
    written = {path.name for path in (tmp_path / "report").iterdir()}
    assert written == {"report.md", "report.tex", "certified_accuracy_1.png"}
    assert (tmp_path / "report" / "report.md").read_text().startswith(ran.out)


def test_a_dry_run_counts_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune.plan._PROBE_SECONDS", 0.02)
    small = write_sweep(tmp_path, TABLE)
    ran = decrop("sweep", small, "--dry-run", "--json")
    assert ran.code == 0, ran.out + ran.err
    assert "2 trials of 2 rows" in ran.out
    assert (ran.last_line["trials"], ran.last_line["finals"]) == (2, 2)
    # 0.08 and 0.16 of 1,297 images, 10 and 21 a class, of which a quarter is held out.
    rows = {
        "short": {
            "training.objective": "stability",
            "training.mse_epochs": 1,
            "training.adversarial.epsilon": 0.1,
            "training.adversarial.steps": 2,
        },
        "long": {"training.epochs": 5, "limited.fraction": 0.16},
    }
    changed = json.loads(json.dumps({**TABLE, "rows": rows, "reference": None}))
    ran = decrop("sweep", write_sweep(tmp_path, changed), "--dry-run", "--json")
    assert ran.code == 0, ran.out + ran.err
    # An epoch of squared error, then two of one view that is attacked twice; else three views.
    short = (1 + 2 * (1 + 2)) * ((100 - 20) + 100)
    long = 3 * (5 + 1) * ((210 - 50) + 210)
    assert ran.last_line["training_images"] == short + long


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"limited.fraction": 0.0005}, "limited.fraction 0.0005"),
        ({"classifier.training": None, "classifier.weights": "/none"}, "/none"),
    ],
)
def test_inputs_of_every_row_are_checked_first(
    tmp_path: Path, setting: dict[str, Any], named: str
) -> None:
    file = write_sweep(tmp_path, {**TABLE, "rows": {**ROWS, "broken": setting}})
    assert named in refused("sweep", file, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
