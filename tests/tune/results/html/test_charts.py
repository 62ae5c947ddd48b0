"""Charts of a search, as data."""

import numpy as np

from tests.decrop.evaluation.test_plots import table
from tune.finished_trials import FinishedTrial
from tune.results.html.certificate_charts import losses_chart
from tune.results.html.charts import Shown
from tune.results.html.search_charts import front_charts, history_chart, importances_chart
from tune.results.metric import Metric
from tune.study import Importances

NAMES = {0: "trial 0, reference"}


def test_history_never_falls_and_reaches_the_last_trial() -> None:
    scores = {0: 0.2, 1: 0.1, 2: 0.05, 3: 0.5, 4: 0.1}
    past = [
        FinishedTrial(number, {}, "pruned" if number in (2, 4) else "complete", value)
        for number, value in scores.items()
    ]
    chart = history_chart([*past, FinishedTrial(5, {}, "failed")], Metric(), NAMES)
    assert chart is not None
    best, complete, pruned, reference = chart.data
    assert (best["x"], best["y"]) == ([0, 1, 3, 4], [0.2, 0.2, 0.5, 0.5])
    assert complete["x"] == [0, 1, 3] and pruned["x"] == [2, 4]
    assert (reference["y"], reference["text"]) == ([0.2], ["trial 0, reference"])


def test_a_loss_of_one_epoch_is_a_point() -> None:
    epochs = [
        {"epoch": n, "total": 1 / n, "discriminator": 0.7 if n == 3 else None} for n in (2, 3)
    ]
    chart = losses_chart([Shown("0", "trial 0", 0, table(np.array([0.1])), epochs)])
    assert chart is not None
    assert [trace["mode"] for trace in chart.data] == ["lines", "markers"]


def test_without_a_complete_trial_there_is_no_history() -> None:
    assert history_chart([FinishedTrial(0, {}, "pruned", 0.1)], Metric(), NAMES) is None


def test_importances_are_bars_in_percent_with_the_first_on_top() -> None:
    [bars] = importances_chart(Importances(1, 9, {"sigma": 0.75, "seed": 0.25})).data
    # plotly.js draws the first value lowest.
    assert (bars["y"], bars["x"]) == (["seed", "sigma"], [25, 75])


def outcome(radius: float, clean: float, weights: int) -> dict[str, float]:
    return {"average_certified_radius": radius, "clean_accuracy": clean, "parameters": weights}


def test_an_objective_alone_is_drawn_over_the_number_of_weights() -> None:
    outcomes = {0: outcome(0.2, 0.5, 10), 1: outcome(0.1, 0.5, 20)}
    [chart] = front_charts(outcomes, [Metric()], NAMES)
    every, front = chart.data
    assert (every["x"], every["y"]) == ([10, 20], [0.2, 0.1])
    assert (front["x"], front["text"]) == ([10], ["trial 0, reference"])


def test_the_first_objective_is_drawn_over_each_other_in_which_trials_differ() -> None:
    outcomes = {0: outcome(0.2, 0.5, 10), 1: outcome(0.3, 0.4, 10), 2: outcome(0.1, 0.4, 10)}
    objectives = [Metric(), Metric(kind="clean_accuracy"), Metric(kind="parameters")]
    [chart] = front_charts(outcomes, objectives, NAMES)
    assert chart.title == "Average certified radius over accuracy without noise"
    assert chart.data[1]["x"] == [0.4, 0.5]
