"""Trial 0, suggestions under conditions, and grids."""

from typing import Any

import pytest

from decrop.config import LossWeights, TrialConfig
from decrop.documents import trial_config
from decrop.errors import InputError
from tune.domains import Domain, contains
from tune.space import (
    grid_points,
    grid_trials,
    reference_config,
    reference_parameters,
    reference_words,
    total_trials,
    trial_config_for,
    varied_paths,
)
from tune.sweep_file import SweepConfig, load_sweep

CONDITIONAL = {
    # Written before what it depends on.
    "training.adam_epochs": {
        "int": [10, 50],
        "step": 10,
        "when": {"training.optimizer": "adam_then_sgd"},
    },
    "training.optimizer": {
        "choice": ["adam", "adam_then_sgd"],
        "when": {"interpolation.mode": "as_written"},
    },
    "interpolation.mode": {"choice": ["as_written", "published"]},
    "training.learning_rate": {"loguniform": [1e-4, 1e-2]},
    "interpolation.mixing_coefficient": {"uniform": [0.1, 0.9]},
}


def made(space: dict[str, Any]) -> dict[str, Domain]:
    return {path: Domain.model_validate(given) for path, given in space.items()}


def sweep(space: dict[str, Any] | None = None, **given: Any) -> SweepConfig:
    return SweepConfig.model_validate(
        {"name": "test", "trials": 5, "space": CONDITIONAL if space is None else space, **given}
    )


def test_trial_0_is_as_written_or_the_papers_choice_at_the_sweeps_own_schedule() -> None:
    trial = {
        "sigma": 0.5,
        "limited": {"fraction": 0.1},
        "denoiser": {"depth": 5},
        "training": {"epochs": 7, "loss_weights": {"cosine": 9, "discriminator": 0}},
        "interpolation": {"mixing_coefficient": 0.8, "count": 5, "mode": "published", "steps": 9},
    }
    assert reference_config(sweep(trial=trial)) == trial_config(trial, source="as written")
    config = reference_config(sweep(trial=trial, reference="paper"))
    weights = config.training.loss_weights
    assert (weights.label_consistency, weights.cosine, weights.mmd, weights.discriminator) == (
        (1, 4, 4, 1)
    )
    assert config.interpolation.mixing_coefficient == 0.5
    assert config.interpolation.count == 1
    assert config.interpolation.mode == "as_written"
    assert config.boundary.attack == "pgd"
    assert (config.sigma, config.limited.fraction, config.denoiser.depth) == (0.5, 0.1, 5)
    assert (config.training.epochs, config.interpolation.steps) == (7, 9)


def test_trial_0_has_no_prior_but_a_sweep_may_search_for_one() -> None:
    space: dict[str, Any] = {
        "prior.steps": {"choice": [10, 20], "when": {"prior.kind": "dead_leaves"}},
        "prior.kind": {"choice": ["none", "dead_leaves"]},
    }
    trial = {"prior": {"kind": "dead_leaves", "steps": 7}}
    grid = sweep(space, search="grid", trials=None, trial=trial, reference="paper")
    assert reference_config(grid).prior.kind == "none"
    assert reference_parameters(grid) == {"prior.kind": "none"}
    priors = [trial_config_for(grid, point).prior for point in grid_trials(grid)]
    assert [(prior.kind, prior.steps) for prior in priors] == [
        ("dead_leaves", 10),
        ("dead_leaves", 20),
    ]


def test_the_reference_is_called_the_papers_where_it_is_so_in_all_that_the_paper_states() -> None:
    for changes, words in (
        ({}, "the paper’s choice"),
        ({"sigma": 0.5, "training": {"evaluations": 3}}, "the paper’s choice"),
        ({"training": {"epochs": 7}}, "as given"),
        ({"denoiser": {"depth": 4}}, "as given"),
        ({"prior": {"kind": "dead_leaves"}}, "as given"),
        ({"denoiser": {"source": "none"}}, "as given"),
    ):
        assert reference_words(trial_config(changes, source="test")) == words


def test_parameters_of_trial_0_follow_the_conditions() -> None:
    assert set(reference_parameters(sweep())) == set(CONDITIONAL) - {"training.adam_epochs"}
    started = sweep(trial={"training": {"optimizer": "adam_then_sgd", "adam_epochs": 30}})
    parameters = reference_parameters(started)
    assert parameters["training.adam_epochs"] == 30
    assert contains(started.space, parameters)


def test_trial_0_without_a_varied_setting_lies_outside() -> None:
    space = {"classifier.training.epochs": {"int": [1, 5]}}
    assert reference_parameters(sweep(space)) == {}
    assert not contains(made(space), {})


def test_published_settings_are_trial_1_and_the_papers_are_trial_0() -> None:
    published = load_sweep("paper_as_published")
    reference = reference_config(published)
    assert reference.training.augmentation.views == "matched"
    assert reference.training.discriminator.reversal_scale == 1
    assert (reference.training.optimizer, reference.training.adam_epochs) == ("adam_then_sgd", 50)
    assert (reference.boundary.pixels, reference.interpolation.mode) == ("float", "as_written")
    (point,) = grid_trials(published)
    config = trial_config_for(published, point)
    assert config.interpolation.mode == "published"
    assert config.interpolation.mixing_coefficient == 0.8
    assert config.training.discriminator.reversal_scale == 2
    assert config.training.discriminator.outputs == 2
    assert config.training.optimizer == "adam"
    assert config.boundary.pixels == "uint8"
    assert config.training.augmentation.views == "independent"
    assert config.training.loss_weights == LossWeights()


def test_trial_takes_its_parameters_and_shares_the_rest() -> None:
    shared = sweep(trial={"training": {"epochs": 7, "learning_rate": 0.5}})
    config = trial_config_for(shared, {"training.learning_rate": 0.25, "denoiser.channels": 8})
    assert (config.training.learning_rate, config.denoiser.channels) == (0.25, 8)
    assert config.training.epochs == 7
    assert shared.trial == {"training": {"epochs": 7, "learning_rate": 0.5}}


GRID = {
    "training.adam_epochs": {"choice": [10, 20], "when": {"training.optimizer": "adam_then_sgd"}},
    "training.optimizer": {"choice": ["adam", "adam_then_sgd"]},
    "seed": {"choice": [0, 1]},
}


def test_grid_has_each_combination_once_and_no_conditional_duplicates() -> None:
    points = grid_points(made(GRID))
    as_sets = {frozenset(point.items()) for point in points}
    expected = {
        frozenset({"training.optimizer": optimizer, "seed": seed, **more}.items())
        for seed in (0, 1)
        for optimizer, more in [
            ("adam", {}),
            ("adam_then_sgd", {"training.adam_epochs": 10}),
            ("adam_then_sgd", {"training.adam_epochs": 20}),
        ]
    }
    assert as_sets == expected
    assert len(points) == 6
    assert grid_points(made(GRID)) == points


def test_grid_does_not_repeat_trial_0() -> None:
    grid = sweep(GRID, search="grid", trials=None)
    assert reference_config(grid) == TrialConfig()
    trials = grid_trials(grid)
    assert len(trials) == 5
    assert {"training.optimizer": "adam", "seed": 0} not in trials
    assert total_trials(grid) == 6


def test_grid_refuses_a_combination_that_no_trial_can_have() -> None:
    space = {
        "classifier.weights": {"choice": [None, "w.safetensors"]},
        "classifier.training.epochs": {"choice": [1, 2]},
    }
    named = {"classifier": {"source": "small_cnn"}}
    with pytest.raises(InputError, match="give weights or training, not both"):
        grid_trials(sweep(space, trial=named, search="grid", trials=None))
    with pytest.raises(InputError, match="name the source to train"):
        grid_trials(sweep(space, search="grid", trials=None))


def test_rows_vary_what_any_of_them_sets() -> None:
    rows = {"a": {"sigma": 0.5}, "b": {"sigma": 0.25, "seed": 1}, "c": {}}
    table = SweepConfig.model_validate({"name": "table", "search": "rows", "rows": rows})
    assert varied_paths(table) == ["sigma", "seed"]
