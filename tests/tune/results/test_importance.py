from typing import Any

import pytest

from tune.domains import Domain
from tune.finished_trials import PastTrial
from tune.results.importance import LEAST_TRIALS, parameter_importances

SPACE = {
    "sigma": Domain(uniform=(0.0, 1.0)),
    "seed": Domain(int=(0, 9)),
}


def trial(number: int, score: float, *, pruned: bool = False, **parameters: Any) -> PastTrial:
    given = {"sigma": (number % 5) / 4, "seed": number // 5 % 10, **parameters}
    scores = {1: score} if pruned else {1: score, 2: 10 + score}
    return PastTrial(number, given, "pruned" if pruned else "complete", scores[max(scores)], scores)


def of_sigma(count: int) -> list[PastTrial]:
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
    assert parameter_importances([], SPACE) is None
    assert parameter_importances(of_sigma(20), {}) is None


def test_a_failed_trial_and_a_score_that_is_no_number_do_not_count() -> None:
    past = of_sigma(LEAST_TRIALS - 1)
    past.append(PastTrial(50, {"sigma": 0.5, "seed": 1}, "failed", 0.5, {1: 0.5}))
    past.append(PastTrial(51, {"sigma": 0.5, "seed": 1}, "pruned", None, {1: float("nan")}))
    assert parameter_importances(past, SPACE) is None
