"""Optuna's study of a sweep: suggestions under conditions, finished trials, importance."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests.tune.sweeps import begin, end, make_sweep, write_complete_trial, write_progress
from tests.tune.test_space import CONDITIONAL, made, sweep
from tune.directory import State
from tune.domains import Domain, contains
from tune.finished_trials import FinishedTrial, finished_trials
from tune.space import trial_config_for
from tune.study import (
    LEAST_TRIALS,
    known_study,
    parameter_importances,
    propose,
    suggest,
    to_frozen_trial,
)


def test_suggestions_have_what_their_conditions_ask_and_nothing_else() -> None:
    space = made(CONDITIONAL)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    seen = set()
    for _ in range(60):
        parameters = suggest(study.ask(), space)
        written = parameters["interpolation.mode"] == "as_written"
        assert ("training.optimizer" in parameters) == written
        sgd = parameters.get("training.optimizer") == "adam_then_sgd"
        assert ("training.adam_epochs" in parameters) == sgd
        assert contains(space, parameters)
        trial_config_for(sweep(), parameters)
        seen.add((written, sgd))
    assert seen == {(True, True), (True, False), (False, False)}


@pytest.mark.parametrize("search", ["tpe", "gp", "random"])
def test_a_search_begins_with_its_points_and_chooses_the_rest(search: str) -> None:
    points = (
        {"interpolation.mode": "published", "training.learning_rate": 2e-3},
        {"interpolation.mode": "as_written", "training.optimizer": "adam"},
    )
    given = sweep(space=CONDITIONAL, search=search, trials=9, points_to_evaluate=points)
    ended = [FinishedTrial(0, propose(given, 9, [], {}), "complete", 0.1, {1: 0.1})]
    first, second, third = (propose(given, number, ended, {}) for number in (1, 2, 3))
    assert first.items() >= points[0].items()
    assert second.items() >= points[1].items()
    free = given.model_copy(update={"points_to_evaluate": ()})
    assert third == propose(free, 3, ended, {})
    assert all(contains(given.space, parameters) for parameters in (first, second))


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"interpolation.mode": "published", "training.learning_rate": 1e-3},
        {
            "interpolation.mode": "published",
            "training.learning_rate": 1e-3,
            "interpolation.mixing_coefficient": 0.5,
            "training.optimizer": "adam",
        },
        {
            "interpolation.mode": "published",
            "training.learning_rate": 1.0,
            "interpolation.mixing_coefficient": 0.5,
        },
        {
            "interpolation.mode": "published",
            "training.learning_rate": 1e-3,
            "interpolation.mixing_coefficient": 0.5,
            "sigma": 1.0,
        },
    ],
)
def test_parameters_that_no_suggestion_has_are_not_contained(parameters: dict[str, Any]) -> None:
    assert not contains(made(CONDITIONAL), parameters)


def test_optuna_is_told_what_the_folders_of_finished_trials_say(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    write_complete_trial(directory.trial(0), 0, radius=0.2)
    ended: dict[int, State] = {1: "pruned", 2: "failed"}
    for number, state in ended.items():
        begin(directory.trial(number), number)
        write_progress(directory.trial(number), 1, 1)
        end(directory.trial(number), state)
    begin(directory.trial(3), 3)
    past, unfinished = finished_trials(directory)
    assert unfinished == [(3, {"sigma": 0.25})]
    told = [to_frozen_trial(trial, directory.read_record().sweep.space) for trial in past]
    expected = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert [trial and trial.state for trial in told] == expected
    for number, trial in enumerate(told):
        assert trial is not None and trial.params == {"sigma": 0.25}
        reports = directory.trial(number).read_reports()
        assert trial.intermediate_values == {
            row["evaluation"]: row["average_certified_radius"] for row in reports
        }
    assert [trial and trial.value for trial in told] == [0.2, 0.1, None]


def test_of_several_objectives_complete_trials_have_all_and_pruned_ones_none() -> None:
    of = sweep(
        space={"seed": {"int": [0, 9]}}, objectives=["average_certified_radius", "parameters"]
    )
    ended = [
        FinishedTrial(0, {"seed": 1}, "complete", 0.5, {1: 0.4, 2: 0.5}, (100.0,)),
        FinishedTrial(1, {"seed": 2}, "pruned", 0.4, {1: 0.4}),
        FinishedTrial(2, {"seed": 3}, "complete", 0.6, {1: 0.6}),
    ]
    study = known_study(of, ended, {3: {"seed": 4}})
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    trials = study.get_trials()
    assert [t.state.name for t in trials] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert trials[0].values == [0.5, 100.0]
    many = [
        FinishedTrial(n, {"seed": n % 10}, "complete", 0.01 * (n % 10), {1: 0.1}, (1.0 + n % 3,))
        for n in range(20)
    ]
    assert contains(of.space, propose(of, 20, [*many, *ended[1:2]], {}))


SPACE = {
    "sigma": Domain(uniform=(0.0, 1.0)),
    "seed": Domain(int=(0, 9)),
}


def trial(number: int, score: float, *, pruned: bool = False, **parameters: Any) -> FinishedTrial:
    given = {"sigma": (number % 5) / 4, "seed": number // 5 % 10, **parameters}
    scores = {1: score} if pruned else {1: score, 2: 10 + score}
    return FinishedTrial(
        number, given, "pruned" if pruned else "complete", scores[max(scores)], scores
    )


def of_sigma(count: int) -> list[FinishedTrial]:
    return [trial(n, (n % 5) / 4, pruned=n % 2 == 1) for n in range(count)]


def test_the_setting_that_decides_has_the_largest_share() -> None:
    found = parameter_importances(of_sigma(20), SPACE)
    assert found is not None
    assert next(iter(found.shares)) == "sigma"
    assert found.shares["sigma"] > 0.8
    assert sum(found.shares.values()) == pytest.approx(1)


def test_trials_are_compared_at_the_last_evaluation_that_enough_have_reached() -> None:
    few = parameter_importances(of_sigma(12), SPACE)
    assert few is not None
    # Six are complete, too few.
    assert (few.evaluation, few.trials) == (1, 12)
    many = parameter_importances(of_sigma(2 * LEAST_TRIALS), SPACE)
    assert many is not None
    assert (many.evaluation, many.trials) == (2, LEAST_TRIALS)


def test_too_few_trials_equal_scores_and_trials_outside_the_space_tell_nothing() -> None:
    assert parameter_importances(of_sigma(LEAST_TRIALS - 1), SPACE) is None
    assert parameter_importances([trial(n, 0.5) for n in range(20)], SPACE) is None
    assert parameter_importances([trial(n, 0.1 * n, sigma=2.0) for n in range(20)], SPACE) is None
    # Scores that differ where nothing else does, to the last trial or but for it.
    same = [trial(n, 0.1 * n, sigma=0.5, seed=1) for n in range(20)]
    assert parameter_importances(same, SPACE) is None
    parameter_importances([*same, trial(20, 0.1, sigma=0.25, seed=1)], SPACE)
    assert parameter_importances([], SPACE) is None
    assert parameter_importances(of_sigma(20), {}) is None


def test_a_failed_trial_and_a_score_that_is_no_number_do_not_count() -> None:
    past = of_sigma(LEAST_TRIALS - 1)
    past.append(FinishedTrial(50, {"sigma": 0.5, "seed": 1}, "failed", 0.5, {1: 0.5}))
    past.append(FinishedTrial(51, {"sigma": 0.5, "seed": 1}, "pruned", None, {1: float("nan")}))
    assert parameter_importances(past, SPACE) is None
