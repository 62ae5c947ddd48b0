"""More trials or queries for a sweep."""

from typing import Any

import pytest

from decrop.errors import InputError
from tests.cases import cases
from tune.space import extended, reference_config, total_trials, with_query_budget
from tune.sweep_file import SweepConfig

SPACE = {"training.loss_weights.cosine": {"uniform": [0, 8]}}
GRID = {"seed": {"choice": [1, 2, 3]}}


def sweep(**given: Any) -> SweepConfig:
    return SweepConfig.model_validate({"name": "test", "trials": 6, "space": SPACE, **given})


@pytest.mark.parametrize("trials", [4, 6, 40])
def test_a_sweep_gets_another_number_of_trials_and_keeps_the_rest(trials: int) -> None:
    before = sweep()
    after = extended(before, trials, existing=4)
    assert total_trials(after) == trials
    assert after == before.model_copy(update={"trials": trials})
    assert before.trials == 6


@cases(
    ("given", "trials", "said"),
    [
        ({}, 3, r"--trials 3: the sweep has begun 4 trials already.*go on to 6"),
        ({"search": "grid", "trials": None, "space": GRID}, 9, "--trials 9: the sweep is a grid"),
        (
            {"search": "rows", "trials": None, "space": {}, "rows": {"a": {"seed": 1}}},
            9,
            "--trials 9: the sweep is a table of rows, which has 1 trial of its own",
        ),
        ({"space": {}, "trials": 1}, 9, "--trials 9.*space is empty"),
    ],
)
def test_what_cannot_be_extended_is_refused(given: Any, trials: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        extended(sweep(**given), trials, existing=4)


def test_a_budget_of_queries_is_raised_where_an_endpoint_is_asked() -> None:
    classifier = {"source": "http://127.0.0.1:9/invocations", "surrogate": {}}
    raised = with_query_budget(sweep(trial={"classifier": classifier}), 9000)
    asked = reference_config(raised).classifier.asked
    assert asked is not None and asked.query_budget == 9000
    with pytest.raises(InputError, match="--query-budget 9000: the sweep asks no endpoint"):
        with_query_budget(sweep(), 9000)
