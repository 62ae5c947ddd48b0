"""A sweep whose trials train classifiers scores them on images that they were not trained on."""

from pathlib import Path
from typing import Any

import pytest

from decrop.errors import InputError
from tests.refusals import one_line
from tests.tune.runs import TINY, write_sweep
from tune.space import reference_config, reference_parameters, trial_kinds
from tune.sweep_file import load_sweep

WITHOUT = {"denoiser": {"source": "none"}, "training": {"evaluations": 2}}
NOISY = {"objective": "gaussian", "trained_on": "without_held_out"}
TABLE = {name: TINY[name] for name in ("name", "base", "trial", "resources")} | {"search": "rows"}
SAID = "classifier.training.trained_on = 'all': trials are compared on held-out images"


def classifiers(**training: Any) -> dict[str, Any]:
    return {**WITHOUT, "classifier": {"training": {**NOISY, **training}}}


LAMBDA = {"classifier.training.regularisation_weight": {"uniform": [0, 0.5]}}


@pytest.mark.parametrize(
    ("trial", "space"),
    [
        (classifiers(trained_on="all"), LAMBDA),
        ({}, LAMBDA),
        ({}, {"denoiser.source": {"choice": ["dncnn", "none"]}}),
        (classifiers(), {"classifier.training.trained_on": {"choice": ["limited", "all"]}}),
    ],
)
def test_training_on_held_out_images_is_refused(
    tmp_path: Path, trial: dict[str, Any], space: dict[str, Any]
) -> None:
    file = write_sweep(tmp_path, trial=trial, space=space)
    said = one_line(load_sweep, str(file))
    assert said.startswith(f"{file}: {SAID}")
    assert "set it to without_held_out, or to limited" in said


@pytest.mark.parametrize(
    ("trial", "space"),
    [
        (classifiers(), LAMBDA),
        (classifiers(trained_on="limited"), LAMBDA),
        ({"classifier": {"training": NOISY}}, LAMBDA),
        # A given classifier, plainly trained on all images, is the same in all trials.
        ({}, {"training.learning_rate": {"uniform": [0.001, 0.002]}}),
    ],
)
def test_held_out_scores_are_accepted(
    tmp_path: Path, trial: dict[str, Any], space: dict[str, Any]
) -> None:
    load_sweep(str(write_sweep(tmp_path, trial=trial, space=space)))


def test_rows_that_train_classifiers_need_the_same(tmp_path: Path) -> None:
    alone = {"denoiser.source": "none"}
    limited = {"classifier.training.trained_on": "limited"}
    for rows in (
        {"DE-CROP": {}, "Cohen": alone},
        {"a": {"classifier.training.epochs": 1}, "b": {}},
    ):
        said = one_line(load_sweep, str(write_sweep(tmp_path, {**TABLE, "rows": rows})))
        assert SAID in said
    rows = {"DE-CROP": {}, "Cohen": {**alone, **limited}}
    loaded = load_sweep(str(write_sweep(tmp_path, {**TABLE, "rows": rows})))
    assert trial_kinds(loaded) == {"denoiser", "classifier"}


@pytest.mark.parametrize("path", ["boundary.epsilon", "training.learning_rate", "denoiser.depth"])
def test_what_has_no_effect_without_a_denoiser_is_refused(tmp_path: Path, path: str) -> None:
    values = {"boundary.epsilon": 0.1, "training.learning_rate": 0.002, "denoiser.depth": 4}
    space = {path: {"choice": [values[path]]}}
    with pytest.raises(InputError, match=rf"{path}: has no effect where there is no denoiser"):
        load_sweep(str(write_sweep(tmp_path, trial=classifiers(), space=space)))
    alone = {"denoiser.source": "none", "classifier.training.trained_on": "limited"}
    rows = {"DE-CROP": {}, "Cohen": {**alone, path: values[path]}}
    with pytest.raises(InputError, match=rf"row Cohen: {path}: has no effect"):
        load_sweep(str(write_sweep(tmp_path, {**TABLE, "rows": rows})))


def test_trial_0_is_as_the_file_says(tmp_path: Path) -> None:
    space = {
        **LAMBDA,
        "classifier.training.objective": {"choice": ["adre_reg", "adre_adv"]},
        "classifier.training.noise_samples": {"choice": [1, 2]},
    }
    given = classifiers(objective="adre_reg", regularisation_weight=0.7)
    sweep = load_sweep(str(write_sweep(tmp_path, trial=given, space=space)))
    config = reference_config(sweep)
    assert config.trains == "classifier" and trial_kinds(sweep) == {"classifier"}
    assert config.boundary.steps == TINY["trial"]["boundary"]["steps"]
    assert reference_parameters(sweep) == {
        # Outside its domain, as trial 0 may be.
        "classifier.training.regularisation_weight": 0.7,
        "classifier.training.objective": "adre_reg",
        "classifier.training.noise_samples": 1,
    }
