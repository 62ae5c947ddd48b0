from pathlib import Path

import pytest

from decrop.errors import InputError
from tests.cases import cases
from tests.tune.results.boards import CONFIG, add_trial
from tests.tune.sweeps import begin, make_sweep
from tune.results.metric import Metric
from tune.results.ranking import certified_radii, chosen, ranking, sweep_metric


def test_ranking_is_of_complete_trials_by_held_out_score(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    add_trial(directory, 0, "complete", 0.2)
    add_trial(directory, 1, "pruned", 0.9)
    add_trial(directory, 2, "failed", 0.8)
    add_trial(directory, 3, "running", 0.7)
    add_trial(directory, 4, "complete", 0.5)
    add_trial(directory, 5, "complete", 0.2)
    begin(directory.trial(6), 6)
    assert list(ranking(directory).items()) == [(4, 0.5), (0, 0.2), (5, 0.2)]


def test_ranking_by_accuracy_breaks_ties_by_radius_and_number(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    for number, (radius, accuracy) in enumerate(
        [(0.2, 0.5), (0.9, 0.4), (0.3, 0.5), (0.1, 0.6), (0.3, 0.5)]
    ):
        add_trial(directory, number, "complete", radius, accuracy=accuracy)
    scores = ranking(directory, Metric(0.25))
    assert list(scores.items()) == [(3, 0.6), (2, 0.5), (4, 0.5), (0, 0.5), (1, 0.4)]


@cases(
    ("order", "top", "expected"),
    [
        ([3, 1, 0, 2], 2, [3, 1, 0]),
        ([3, 0, 1, 2], 2, [3, 0]),
        ([0, 1, 2, 3], 1, [0]),
        ([1, 2, 3, 0], 9, [1, 2, 3, 0]),
        ([1, 2, 3], 2, [1, 2]),
        ([], 3, []),
    ],
)
def test_chosen_are_the_best_and_trial_0_once(
    order: list[int], top: int, expected: list[int]
) -> None:
    assert chosen(order, top) == expected


def test_the_default_ranking_is_the_sweeps_own(tmp_path: Path) -> None:
    assert sweep_metric(make_sweep(tmp_path)) == Metric()
    directory = make_sweep(tmp_path, "tiny", leaderboard={"by": "certified_accuracy@0.25"})
    add_trial(directory, 0, "complete", 0.9, accuracy=0.1)
    add_trial(directory, 1, "complete", 0.1, accuracy=0.9)
    assert sweep_metric(directory) == Metric(0.25)
    assert list(ranking(directory).items()) == [(1, 0.9), (0, 0.1)]


def test_radii_are_those_of_the_trials(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    with pytest.raises(InputError, match="no trials yet"):
        certified_radii(directory)
    begin(directory.trial(2), 2, CONFIG)
    assert certified_radii(directory) == (0.0, 0.25)
