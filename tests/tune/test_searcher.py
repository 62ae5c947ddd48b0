"""The searcher as Ray Tune drives it, without Ray Tune."""

import logging
import math
import random
import warnings
from collections.abc import Mapping
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from tests.cases import cases
from tests.tune.simulation import simulate
from tune.domains import contains
from tune.finished_trials import FinishedTrial
from tune.searcher import SweepSearcher
from tune.space import grid_trials, reference_parameters
from tune.study import known_study
from tune.sweep_file import SweepConfig

METRIC = "average_certified_radius"
SPACE = {
    "training.loss_weights.cosine": {"uniform": [0, 8]},
    "training.learning_rate": {"loguniform": [1e-4, 1e-2]},
    "training.optimizer": {"choice": ["adam", "adam_then_sgd"]},
    "training.adam_epochs": {
        "int": [10, 300],
        "step": 10,
        "when": {"training.optimizer": "adam_then_sgd"},
    },
}
GRID = {"seed": {"choice": [1, 2, 3]}}


def sweep(space: dict[str, Any] = SPACE, **given: Any) -> SweepConfig:
    return SweepConfig.model_validate({"name": "test", "trials": 6, "space": space, **given})


def searcher(of: SweepConfig, **given: Any) -> SweepSearcher:
    return SweepSearcher(of, metric=METRIC, time_attr="evaluation", **given)


def result(value: float, evaluation: int = 1, finished: bool = True) -> dict[str, Any]:
    return {METRIC: value, "evaluation": evaluation, "finished": finished}


def score(parameters: Mapping[str, Any]) -> float:
    """A smooth score with its maximum at cosine 6 and learning rate 1e-3, under adam."""
    cosine: float = parameters["training.loss_weights.cosine"]
    rate = math.log10(parameters["training.learning_rate"])
    penalty = 0.0 if parameters["training.optimizer"] == "adam" else 0.5
    return 1.0 - (cosine - 6) ** 2 / 36 - (rate + 3) ** 2 - penalty


def suggestion(search: SweepSearcher, name: str) -> dict[str, Any]:
    suggested = search.suggest(name)
    assert isinstance(suggested, dict)
    return suggested


def run(search: SweepSearcher, stop_after: int | None = None) -> list[FinishedTrial]:
    """Run trials one at a time; every fifth is pruned; return them as they would be recorded."""
    ended: list[FinishedTrial] = []
    while stop_after is None or len(ended) < stop_after:
        suggested = search.suggest(f"trial {len(ended)}")
        if suggested == Searcher.FINISHED:
            break
        assert isinstance(suggested, dict)
        number, parameters = suggested["number"], suggested["parameters"]
        value = score(parameters)
        search.on_trial_result(f"trial {len(ended)}", result(value / 2, 1, finished=False))
        pruned = number % 5 == 4
        last = result(value, 2, finished=not pruned)
        search.on_trial_complete(f"trial {len(ended)}", last)
        ended.append(
            FinishedTrial(
                number,
                parameters,
                "pruned" if pruned else "complete",
                None if pruned else value,
                {1: value / 2, 2: value} if pruned else {1: value / 2},
            )
        )
    return ended


def known(search: SweepSearcher, of: SweepConfig | None = None) -> list[FrozenTrial]:
    return known_study(of or sweep(), search.finished.values(), {}).get_trials()


def test_trial_0_comes_first_and_the_sweep_ends_after_its_trials() -> None:
    of = sweep()
    search = searcher(of)
    suggested = [suggestion(search, str(n)) for n in range(6)]
    assert suggested[0] == {
        "number": 0,
        "parameters": reference_parameters(of),
        "reference": True,
    }
    assert [trial["number"] for trial in suggested] == list(range(6))
    assert not any(trial["reference"] for trial in suggested[1:])
    assert all(contains(of.space, trial["parameters"]) for trial in suggested)
    assert search.suggest("6") == search.suggest("7") == Searcher.FINISHED


def test_trial_0_alone_is_a_sweep() -> None:
    search = searcher(sweep({}, trials=1))
    assert suggestion(search, "a")["reference"]
    search.on_trial_complete("a", result(1.0))
    assert search.suggest("b") == Searcher.FINISHED


def test_trial_0_outside_the_domains_is_run_but_not_learnt_from() -> None:
    of = sweep({"training.loss_weights.cosine": {"uniform": [6, 8]}})
    search = searcher(of)
    assert suggestion(search, "a")["parameters"] == {"training.loss_weights.cosine": 4}
    search.on_trial_result("a", result(0.5, finished=False))
    search.on_trial_complete("a", result(0.5))
    assert known(search, of) == []
    past = [FinishedTrial(0, reference_parameters(of), "complete", 0.5)]
    resumed = searcher(of, past=past)
    assert known(resumed, of) == []
    assert suggestion(resumed, "b")["number"] == 1


@cases(
    ("last", "error", "state", "value"),
    [
        (result(0.3, 2), False, TrialState.COMPLETE, 0.3),
        (result(0.3, 2, finished=False), False, TrialState.PRUNED, 0.3),
        ({METRIC: 0.3, "evaluation": 2}, False, TrialState.PRUNED, 0.3),
        (result(math.nan, 2), False, TrialState.FAIL, None),
        (result(math.inf, 2), False, TrialState.FAIL, None),
        (result(math.nan, 2, finished=False), False, TrialState.FAIL, None),
        ({"evaluation": 2, "finished": True}, False, TrialState.FAIL, None),
        (result(0.3, 2), True, TrialState.FAIL, None),
        (None, True, TrialState.FAIL, None),
        (None, False, TrialState.FAIL, None),
    ],
)
def test_end_of_a_trial(
    last: dict[str, Any] | None, error: bool, state: TrialState, value: float | None
) -> None:
    search = searcher(sweep())
    suggestion(search, "a")
    search.on_trial_result("a", result(0.1, 1, finished=False))
    search.on_trial_complete("a", last, error=error)
    (trial,) = known(search)
    assert (trial.state, trial.value) == (state, value)
    assert trial.intermediate_values[1] == 0.1
    if state == TrialState.PRUNED:
        assert trial.intermediate_values == {1: 0.1, 2: 0.3}


def test_repeated_and_unknown_events_are_ignored() -> None:
    search = searcher(sweep())
    suggestion(search, "a")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in (0.1, 0.2, math.nan):
            search.on_trial_result("a", result(value, 1, finished=False))
        search.on_trial_result("a", {"training_iteration": 2})
        search.on_trial_complete("a", result(0.3, 2))
        search.on_trial_complete("a", result(0.9, 3))
        search.on_trial_result("a", result(0.9, 4))
        search.on_trial_result("unknown", result(0.9, 4))
        search.on_trial_complete("unknown", result(0.9, 4))
    (trial,) = known(search)
    assert trial.value == 0.3
    assert trial.intermediate_values == {1: 0.1}


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_same_seed_proposes_the_same(method: str) -> None:
    def proposals(seed: int) -> list[Any]:
        of = sweep(search=method, search_seed=seed, trials=16)
        return [trial.parameters for trial in run(searcher(of))]

    assert proposals(1) == proposals(1)
    assert proposals(1)[1:] != proposals(2)[1:]


@pytest.mark.parametrize("method", ["tpe", "random"])
@pytest.mark.parametrize("after", [0, 1, 3, 9, 15, 16])
def test_interrupted_sweep_proposes_what_the_whole_one_does(method: str, after: int) -> None:
    of = sweep(search=method, trials=16)
    whole = run(searcher(of))
    first = run(searcher(of), stop_after=after)
    second = run(searcher(of, past=first))
    assert first + second == whole
    assert len({str(trial.parameters) for trial in whole}) == 16


def test_random_proposals_do_not_learn() -> None:
    of = sweep(search="random", trials=16)
    search = searcher(of)
    blind = [suggestion(search, str(n))["parameters"] for n in range(16)]
    assert [trial.parameters for trial in run(searcher(of))] == blind


def test_unfinished_trials_keep_their_numbers_and_come_before_new_ones() -> None:
    of = sweep()
    handed = searcher(of)
    first = [suggestion(handed, str(n)) for n in range(4)]
    past = [FinishedTrial(n, first[n]["parameters"], "complete", 0.1 * n) for n in (0, 2)]
    unfinished = [(n, first[n]["parameters"]) for n in (3, 1)]
    search = searcher(of, past=past, unfinished=unfinished)
    again = [suggestion(search, str(n)) for n in range(4)]
    assert again[:2] == [first[1], first[3]]
    assert [trial["number"] for trial in again] == [1, 3, 4, 5]
    assert search.suggest("x") == Searcher.FINISHED
    search.on_trial_complete("0", result(0.7))
    assert known(search)[1].params == first[1]["parameters"]
    assert known(search)[1].value == 0.7


def test_unfinished_trial_0_is_the_reference_again() -> None:
    of = sweep()
    unfinished = [(1, {"training.optimizer": "adam"}), (0, reference_parameters(of))]
    search = searcher(of, unfinished=unfinished)
    first, second, third = (suggestion(search, name) for name in "abc")
    assert first["reference"] and first["number"] == 0
    assert (second["number"], second["parameters"]) == (1, {"training.optimizer": "adam"})
    assert third["number"] == 2


def test_past_trials_count_whatever_their_end() -> None:
    of = sweep(trials=5)
    parameters = {**reference_parameters(of), "training.loss_weights.cosine": 1.0}
    past = [
        FinishedTrial(0, parameters, "complete", 0.5, {1: 0.25}),
        FinishedTrial(1, parameters, "pruned", None, {1: 0.25, 2: 0.5}),
        FinishedTrial(2, parameters, "failed", None, {1: 0.25}),
    ]
    search = searcher(of, past=past)
    kept = known(search)
    assert [trial.state.name for trial in kept] == ["COMPLETE", "PRUNED", "FAIL"]
    assert [trial.value for trial in kept] == [0.5, 0.5, None]
    assert all(trial.params == parameters for trial in kept)
    assert [suggestion(search, name)["number"] for name in "ab"] == [3, 4]
    assert search.suggest("c") == Searcher.FINISHED


def test_past_trial_without_a_score_is_no_score() -> None:
    of = sweep()
    given = reference_parameters(of)
    past = [
        FinishedTrial(0, given, "complete", math.nan),
        FinishedTrial(1, given, "pruned", None, {1: math.nan}),
    ]
    assert [t.state for t in known(searcher(of, past=past))] == [TrialState.FAIL] * 2


def test_missing_number_is_filled_and_the_total_kept() -> None:
    of = sweep(trials=5)
    given = reference_parameters(of)
    past = [FinishedTrial(n, given, "complete", 0.5) for n in (0, 3)]
    search = searcher(of, past=past)
    assert [suggestion(search, name)["number"] for name in "abc"] == [1, 2, 4]
    assert search.suggest("d") == Searcher.FINISHED
    more = [*past, *(FinishedTrial(n, given, "complete", 0.5) for n in (7, 8))]
    search = searcher(of, past=more)
    assert suggestion(search, "a")["number"] == 1
    assert search.suggest("b") == Searcher.FINISHED


def test_grid_runs_its_points_in_order_after_trial_0() -> None:
    of = sweep(GRID, search="grid", trials=None)
    search = searcher(of)
    trials = [suggestion(search, str(n)) for n in range(4)]
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3]
    assert [trial["parameters"] for trial in trials[1:]] == grid_trials(of)
    assert search.suggest("x") == Searcher.FINISHED


def test_resumed_grid_runs_the_points_that_are_left() -> None:
    of = sweep(GRID, search="grid", trials=None)
    past = [FinishedTrial(0, {"seed": 0}, "complete", 0.1), FinishedTrial(2, {"seed": 2}, "failed")]
    search = searcher(of, past=past, unfinished=[(3, {"seed": 3})])
    assert [suggestion(search, name) for name in "ab"] == [
        {"number": 3, "parameters": {"seed": 3}, "reference": False},
        {"number": 1, "parameters": {"seed": 1}, "reference": False},
    ]
    assert search.suggest("c") == Searcher.FINISHED


def test_running_trials_are_not_proposed_again() -> None:
    of = sweep(trials=30)
    search = searcher(of, past=run(searcher(of), stop_after=20))
    together = [suggestion(search, str(n))["parameters"] for n in range(10)]
    assert len({str(parameters) for parameters in together}) == 10


def fixed(method: str, **given: Any) -> SweepConfig:
    return sweep(search=method, trials=20, resources={"max_concurrent": 3}, **given)


def timed(of: SweepConfig, timing: int) -> dict[int, tuple[Mapping[str, Any], int, str]]:
    """Run trials of random durations; return parameters, evaluations and end by number."""
    durations = random.Random(timing)
    ended = simulate(
        of,
        lambda _, parameters: [score(parameters) * n / 3 for n in (1, 2, 3)],
        lambda *_: durations.expovariate(1.0),
        at_once=3,
    )
    return {
        event.number: (event.parameters, event.evaluation, event.state)
        for event in ended
        if event.state != "running"
    }


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_proposals_and_pruning_do_not_depend_on_timing_where_trials_at_once_are_fixed(
    method: str,
) -> None:
    runs = [timed(fixed(method), timing) for timing in range(5)]
    assert set(runs[0]) == set(range(20))
    assert all(run == runs[0] for run in runs[1:])
    assert len({state for _, _, state in runs[0].values()}) == 2
    free = sweep(search=method, trials=20)
    assert any(timed(free, timing) != timed(free, 0) for timing in range(1, 5))


def test_a_proposal_waits_for_the_trials_that_it_rests_on_and_for_no_other() -> None:
    of = sweep(trials=6, resources={"max_concurrent": 2})
    assert of.lag == 3
    search = searcher(of)
    for number in (0, 1, 2):
        assert suggestion(search, str(number))["number"] == number
    search.on_trial_complete("1", result(0.5))
    search.on_trial_complete("2", result(0.5))
    assert search.suggest("3") is None
    search.on_trial_complete("0", result(0.5))
    assert suggestion(search, "3")["number"] == 3


def test_a_sweep_taken_up_again_proposes_what_the_whole_one_does_whatever_had_ended() -> None:
    of = fixed("tpe", pruning={"enabled": False})
    whole = timed(of, 0)
    for ended in ([0, 1, 2, 3], [0, 1, 2, 4], [0, 1, 2, 3, 4]):
        past = [FinishedTrial(n, whole[n][0], "complete", score(whole[n][0])) for n in ended]
        begun = [(n, whole[n][0]) for n in range(5) if n not in ended]
        search = searcher(of, past=past, unfinished=begun)
        names = [str(n) for n in range(len(begun))]
        again = [suggestion(search, name) for name in names]
        assert [trial["number"] for trial in again] == [n for n, _ in begun]
        following = suggestion(search, "following")
        assert following["number"] == 5
        assert following["parameters"] == whole[5][0]


def test_save_writes_nothing(tmp_path: Path) -> None:
    search = searcher(sweep())
    suggestion(search, "a")
    search.save_to_dir(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_optunas_own_log_level_and_warnings_are_as_before() -> None:
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    handler = BufferingHandler(1000)
    logging.getLogger("optuna").addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            filters = list(warnings.filters)
            search = searcher(sweep())
            suggestion(search, "a")
            search.on_trial_complete("a", result(0.5))
            suggestion(search, "b")
            assert warnings.filters == filters
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        logging.getLogger("optuna").removeHandler(handler)
        optuna.logging.set_verbosity(optuna.logging.INFO)
    assert caught == []
    assert [record for record in handler.buffer if record.levelno >= logging.INFO] == []


def test_no_more_trials_are_under_way_than_may_be() -> None:
    room = [128]
    search = searcher(sweep(search="random", trials=300), at_once=lambda: room[0])
    for number in range(128):
        assert suggestion(search, f"trial {number}")["number"] == number
    assert search.suggest("one too many") is None
    search.on_trial_complete("trial 5", result(0.5))
    assert suggestion(search, "trial 128")["number"] == 128
    assert search.suggest("one too many") is None
    # A machine has joined.
    room[0] = 130
    assert suggestion(search, "trial 129")["number"] == 129
