"""Trials of earlier sweeps that a new one learns from, and what is refused of them."""

from pathlib import Path
from typing import Any

import pytest

from decrop.config import TrialConfig
from decrop.errors import InputError
from decrop.files import read_json, write_json, write_text
from tests.cases import cases
from tests.refusals import one_line
from tests.tune.simulation import simulate
from tests.tune.sweeps import begin, end, write_outcome, write_progress
from tune.directory import SweepDirectory
from tune.earlier import (
    EarlierTrials,
    as_finished,
    check_same_inputs,
    gather,
    read_learnt,
    write_learnt,
)
from tune.space import trial_config_for
from tune.sweep_file import SweepConfig

RATE = "training.learning_rate"
SPACE = {RATE: {"uniform": [0.001, 0.01]}}


def sweep(**given: Any) -> SweepConfig:
    return SweepConfig.model_validate({"name": "test", "trials": 6, "space": SPACE, **given})


def earlier(folder: Path, *rates: float, **given: Any) -> SweepDirectory:
    """Write a sweep of complete trials, the last of them pruned."""
    of = sweep(**given)
    directory = SweepDirectory.create(folder, of)
    for number, rate in enumerate(rates):
        trial = directory.trial(number)
        begin(trial, number, trial_config_for(of, {RATE: rate}))
        pruned = number == len(rates) - 1
        write_progress(trial, 1, 1 if pruned else 2)
        if not pruned:
            write_outcome(trial)
        write_json(trial.inputs_path, {"classifier": "c" * 64})
        end(trial, "pruned" if pruned else "complete")
    return directory


def gathered(of: SweepConfig, *paths: Path) -> tuple[EarlierTrials, str]:
    said: list[str] = []
    return gather(of, paths, said.append), "\n".join(said)


def test_trials_of_the_space_are_learnt_and_kept(tmp_path: Path) -> None:
    first, second = earlier(tmp_path, 0.002, 0.004), earlier(tmp_path, 0.008, 0.02)
    learnt, said = gathered(sweep(), first.path, second.path)
    assert said.splitlines() == [
        f"learns from 2 trials of {first.path}",
        f"learns from 1 trial of {second.path}; left out: 1 outside of the space",
    ]
    trials = as_finished(learnt)
    assert [(t.number, t.parameters[RATE], t.state, t.value) for t in trials] == [
        (-1, 0.002, "complete", 0.2),
        (-2, 0.004, "pruned", 0.1),
        (-3, 0.008, "complete", 0.2),
    ]
    directory = SweepDirectory.create(tmp_path, sweep())
    assert read_learnt(directory).trials == ()
    write_learnt(directory, learnt)
    assert read_learnt(directory) == learnt


def test_spaces_may_differ_and_other_fixed_settings_may_not(tmp_path: Path) -> None:
    directory = earlier(tmp_path, 0.002, 0.004)
    wider = {**SPACE, "training.loss_weights.cosine": {"uniform": [0, 8]}}
    learnt, _ = gathered(sweep(space=wider), directory.path)
    assert [trial.parameters for trial in learnt.trials] == [
        {RATE: rate, "training.loss_weights.cosine": 4.0} for rate in (0.002, 0.004)
    ]
    learnt, said = gathered(sweep(trial={"training": {"epochs": 7}}), directory.path)
    assert learnt.trials == ()
    assert said.endswith("left out: 2 with other settings that are fixed here")


@cases(
    ("trial", "expected"),
    [
        ({"sigma": 0.5}, r"sigma is 0\.25 there and 0\.5 here"),
        (
            {"certification": {"held_out_samples": 77}},
            "certification.held_out_samples is 1000 there and 77 here",
        ),
        ({"limited": {"fraction": 0.5}}, r"limited\.fraction is 0\.01 there"),
    ],
)
def test_what_was_measured_otherwise_is_refused(
    tmp_path: Path, trial: dict[str, Any], expected: str
) -> None:
    directory = earlier(tmp_path, 0.002, 0.004)
    with pytest.raises(InputError, match=expected):
        gathered(sweep(trial=trial), directory.path)


def test_another_classifier_or_other_data_are_refused(tmp_path: Path) -> None:
    learnt, _ = gathered(sweep(), earlier(tmp_path, 0.002, 0.004).path)
    check_same_inputs(learnt, {"classifier": "c" * 64, "limited_data": "d" * 64})
    with pytest.raises(InputError, match="trials/0 was scored with another classifier"):
        check_same_inputs(learnt, {"classifier": "e" * 64})


@cases(
    "reports",
    [
        "not JSON",
        '{"evaluation": 1}',
        '[{"evaluation": 1}]',
        '[{"evaluation": 1, "epoch": 1, "average_certified_radius": 1e99, '
        '"certified_accuracy": {}, "finished": true}]',
        '[{"evaluation": -1, "epoch": 1, "average_certified_radius": 0.1, '
        '"certified_accuracy": {}, "finished": true}]',
        '[{"evaluation": 1, "epoch": 1, "average_certified_radius": NaN, '
        '"certified_accuracy": {}, "finished": true}]',
    ],
)
def test_hostile_reports_are_refused_in_a_line(tmp_path: Path, reports: str) -> None:
    directory = earlier(tmp_path, 0.002, 0.004)
    write_text(directory.trial(0).reports_path, reports)
    said = one_line(gathered, sweep(), directory.path)
    assert str(directory.trial(0).path) in said


def test_what_a_sweep_has_learnt_is_checked_when_it_goes_on(tmp_path: Path) -> None:
    directory = SweepDirectory.create(tmp_path, sweep())
    write_learnt(directory, gathered(sweep(), earlier(tmp_path, 0.002, 0.004).path)[0])
    document = read_json(directory.learnt_path)
    document["trials"][0]["state"] = "failed"
    write_json(directory.learnt_path, document)
    with pytest.raises(InputError, match=r"learnt\.json: trials"):
        read_learnt(directory)


def test_a_search_that_learns_from_nothing_refuses(tmp_path: Path) -> None:
    grid = sweep(search="grid", trials=None, space={"seed": {"choice": [1]}})
    with pytest.raises(InputError, match="search grid learns from nothing"):
        gathered(grid, earlier(tmp_path, 0.002, 0.004).path)


def test_the_search_begins_where_the_earlier_one_ended(tmp_path: Path) -> None:
    of = sweep(trials=10, trial={"training": {"learning_rate": 0.0055}})
    directory = SweepDirectory.create(tmp_path, of)
    rates = [0.001 + 0.0005 * n for n in range(19)]
    for number, rate in enumerate(rates):
        trial = directory.trial(number)
        begin(trial, number, trial_config_for(of, {RATE: rate}))
        write_progress(trial, 1, 1)
        reports = read_json(trial.reports_path)
        reports[0]["average_certified_radius"] = score(rate)
        write_json(trial.reports_path, reports)
        end(trial)
    learnt = as_finished(gathered(of, directory.path)[0])

    def tried(**given: Any) -> float:
        events = simulate(of, lambda _, p: [score(p[RATE])], lambda *_: 1.0, at_once=1, **given)
        found = [abs(e.parameters[RATE] - 0.009) for e in events if 0 < e.number < 4]
        return sum(found) / len(found)

    assert tried(learnt=learnt) < 0.5 * tried()
    assert isinstance(trial_config_for(of, {RATE: 0.009}), TrialConfig)


def score(rate: float) -> float:
    return 1 - 100 * abs(rate - 0.009)
