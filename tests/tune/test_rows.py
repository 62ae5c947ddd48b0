"""Rows of a table: what a file may say, and which trials they are."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from decrop.config import TrialConfig
from decrop.documents import merge
from decrop.errors import InputError
from tests.refusals import one_line
from tests.tune.runs import TINY
from tune.searcher import SweepSearcher
from tune.space import (
    listed_trials,
    reference_config,
    reference_parameters,
    row_trials,
    total_trials,
    trial_config_for,
    trial_row,
)
from tune.sweep_file import SweepConfig, load_sweep

TABLE: dict[str, Any] = {
    "name": "table",
    "base": "digits",
    "search": "rows",
    "trial": {"training": {"epochs": 3, "loss_weights": {"cosine": 2}}},
    "rows": {
        "baseline": {"training.objective": "stability"},
        "instance level": {"training.loss_weights.mmd": 0},
        "DE-CROP": {},
    },
}


def written(folder: Path, **changes: Any) -> str:
    path = folder / "table.yaml"
    document = {**TABLE, **changes}
    given = {name: value for name, value in document.items() if value is not None}
    path.write_text(yaml.safe_dump(given, sort_keys=False))
    return str(path)


def loaded(folder: Path, **changes: Any) -> SweepConfig:
    return load_sweep(written(folder, **changes))


def test_each_row_is_a_trial_with_the_sweeps_settings_and_its_own(tmp_path: Path) -> None:
    sweep = loaded(tmp_path)
    assert [trial.row for trial in row_trials(sweep)] == list(TABLE["rows"])
    configs = [trial_config_for(sweep, trial.parameters) for trial in row_trials(sweep)]
    assert [config.training.objective for config in configs] == ["stability", "decrop", "decrop"]
    assert [config.training.loss_weights.mmd for config in configs] == [4, 0, 4]
    assert {config.training.epochs for config in configs} == {3}
    assert total_trials(sweep) == 3


def test_the_reference_is_trial_0_as_it_stands_in_the_file(tmp_path: Path) -> None:
    first = loaded(tmp_path)
    # Not the paper's weight, as in other sweeps' trial 0: nothing is laid over a row.
    assert reference_config(first).training.objective == "stability"
    assert reference_config(first).training.loss_weights.cosine == 2
    named = loaded(tmp_path, reference="DE-CROP")
    rows = ["DE-CROP", "baseline", "instance level"]
    assert [trial_row(named, number) for number in range(3)] == rows
    assert reference_parameters(named) == {}
    assert reference_config(named) == TrialConfig.model_validate(named.trial)
    assert listed_trials(named) == [TABLE["rows"][name] for name in rows[1:]]


def test_seeds_repeat_each_row_on_the_same_limited_data(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, seeds=2, reference="instance level")
    trials = row_trials(sweep)
    assert [(trial.row, trial.parameters["seed"]) for trial in trials] == [
        *(("instance level", 0), ("instance level", 1)),
        *(("baseline", 0), ("baseline", 1), ("DE-CROP", 0), ("DE-CROP", 1)),
    ]
    configs = [trial_config_for(sweep, trial.parameters) for trial in trials]
    assert [config.seed for config in configs] == [0, 1] * 3
    assert len({config.limited for config in configs}) == 1
    assert sweep.leaderboard.top == total_trials(sweep) == 6


def test_every_row_is_completed_and_certified(tmp_path: Path) -> None:
    sweep = loaded(tmp_path)
    assert not sweep.pruning.enabled
    assert sweep.leaderboard.top == 3


def test_a_loaded_table_survives_json_with_its_order(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, seeds=2)
    again = SweepConfig.model_validate_json(sweep.model_dump_json())
    assert again == sweep
    assert row_trials(again) == row_trials(sweep)


def test_rows_are_handed_out_once_and_again_if_unfinished(tmp_path: Path) -> None:
    sweep = loaded(tmp_path)

    def handed_out(**given: Any) -> list[tuple[int, dict[str, Any], bool]]:
        search = SweepSearcher(sweep, metric="score", **given)
        suggested = []
        while isinstance(found := search.suggest(str(len(suggested))), dict):
            suggested.append((found["number"], found["parameters"], found["reference"]))
        return suggested

    rows = list(TABLE["rows"].values())
    assert handed_out() == [(0, rows[0], True), (1, rows[1], False), (2, rows[2], False)]
    resumed = handed_out(unfinished=[(1, rows[1])])
    assert sorted(resumed, key=lambda trial: trial[0]) == handed_out()


def test_rows_may_vary_what_figures_vary(tmp_path: Path) -> None:
    rows = {"a": {}, "b": {"sigma": 0.5}, "c": {"limited.fraction": 0.1, "limited.seed": 1}}
    rows["d"] = {"execution.precision": "fp32"}
    assert list(loaded(tmp_path, rows=rows).rows) == list(rows)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"rows": None}, ["rows is missing"]),
        ({"rows": {"a": {"training.epoch": 3}}}, ["row a: training.epoch", "training.epochs"]),
        ({"rows": {"a": {"training.epochs": 0}}}, ["row a: training.epochs = 0", "equal to 1"]),
        ({"rows": {"a": {"sigma.x": 0}}, "trial": {"sigma": 1}}, ["row a: sigma.x cannot be set"]),
        ({"rows": {"a": {"training": {"epochs": 3}}}}, ["row a: training", "training.epochs"]),
        ({"rows": {"a": {}, "b": {"sigma": 0.35}}}, ["row b", "same settings as row a"]),
        ({"rows": {"a|b": {}}}, ["rows.a|b", "pattern"]),
        ({"rows": {"a": 3}}, ["rows.a = 3", "mapping"]),
        ({"rows": {"a": {"certification.radii": [0.0]}}}, ["row a", "same in all rows"]),
        ({"rows": {"a": {"certification.test_images": 7}}}, ["row a", "same in all rows"]),
        ({"rows": {"a": {"dataset.name": "cifar10"}}}, ["row a", "same in all rows"]),
        (
            {"rows": {"a": {"certification.failure_probability": 0.1}}},
            ["row a", "failure_probability: must be the same in all rows", "how they are measured"],
        ),
        ({"rows": {"a": {"execution.chunk_size": 7}}}, ["row a", "same in all rows"]),
        ({"reference": "decrop"}, ["reference = 'decrop'", "baseline, instance level, DE-CROP"]),
        ({"seeds": 0}, ["seeds = 0"]),
        ({"seeds": 2, "rows": {"a": {"seed": 3}}}, ["seeds = 2", "0 to 1"]),
        ({"seeds": 2, "trial": {"seed": 3}}, ["seeds = 2", "0 to 1"]),
        ({"trials": 3}, ["drop trials and space"]),
        ({"space": {"seed": {"int": [0, 1]}}}, ["drop trials and space"]),
        ({"pruning": {"enabled": True}}, ["pruning has no effect"]),
        ({"leaderboard": {"top": 1}}, ["leaderboard has no effect"]),
        ({"search": "grid"}, ["need search rows, not search grid"]),
        ({"search": "grid", "reference": "baseline"}, ["reference = 'baseline'", "must be paper"]),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], parts: list[str]
) -> None:
    path = written(tmp_path, **changes)
    text = one_line(load_sweep, path)
    assert text.startswith(path) and "\n" not in text
    for part in parts:
        assert part in text


def test_a_row_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text("name: table\nsearch: rows\nrows:\n  a: {}\n  a: {seed: 1}\n")
    with pytest.raises(InputError, match=r"line 5.*'a' appears twice"):
        load_sweep(str(path))


def test_assignments_reach_what_rows_share(tmp_path: Path) -> None:
    path = written(tmp_path, rows={"a": {"sigma": 0.5}, "b": {"sigma": 1, "training.epochs": 9}})
    sweep = load_sweep(path, ["training.epochs=7", "seeds=2"])
    configs = [trial_config_for(sweep, trial.parameters) for trial in row_trials(sweep)]
    assert [config.training.epochs for config in configs] == [7, 7, 9, 9]
    replaced = load_sweep(path, ["rows={c: {seed: 4}}"])
    assert [trial.row for trial in row_trials(replaced)] == ["c"]
    for assignment, part in (
        ("sigma=2", "every row sets it"),
        ("rows.a.sigma=2", "give all rows at once"),
    ):
        with pytest.raises(InputError, match=part):
            load_sweep(path, [assignment])


def test_rows_of_other_searches_are_refused() -> None:
    # A sweep without rows has no trials of rows.
    sweep = SweepConfig.model_validate(merge(TINY, {"base": None}))
    assert row_trials(sweep) == []
    assert trial_row(sweep, 0) is None
