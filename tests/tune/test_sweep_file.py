"""Sweep files and presets: what loads is complete and valid, what is wrong is one line."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from decrop.config import TrialConfig
from decrop.documents import field_paths, load_trial_document, set_dotted, trial_config
from decrop.errors import InputError
from tests.cases import cases
from tests.refusals import one_line
from tune.domains import contains
from tune.space import objectives_of, reference_config, reference_parameters, total_trials
from tune.sweep_file import SweepConfig, load_sweep

PRESETS = sorted(
    entry.name.removesuffix(".yaml")
    for entry in (files("tune") / "presets").iterdir()
    if entry.name.endswith(".yaml")
)
SWEEP: dict[str, Any] = {
    "name": "mine",
    "base": "digits",
    "trial": {"training": {"epochs": 3}},
    "space": {"training.loss_weights.cosine": {"uniform": [0, 8]}},
    "trials": 5,
}


def written(folder: Path, sweep: dict[str, Any]) -> str:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep))
    return str(path)


@cases("name", PRESETS)
def test_preset_is_a_sweep(name: str) -> None:
    sweep = load_sweep(name)
    assert sweep.name == name
    assert sweep.description
    assert total_trials(sweep) >= 2
    assert set(sweep.space) <= set(field_paths())


@cases("name", [name for name in PRESETS if load_sweep(name).search == "tpe"])
def test_search_of_a_preset_learns_from_trial_0(name: str) -> None:
    sweep = load_sweep(name)
    assert contains(sweep.space, reference_parameters(sweep))


@cases("name", PRESETS)
def test_loaded_sweep_depends_on_no_other_file_and_survives_json(name: str) -> None:
    sweep = load_sweep(name)
    assert sweep.base is None
    assert SweepConfig.model_validate_json(sweep.model_dump_json()) == sweep


def test_names_of_a_sweep_and_of_a_trial_differ() -> None:
    # An assignment's first name says whose setting it is.
    assert not set(SweepConfig.model_fields) & set(TrialConfig.model_fields)


def test_base_lies_under_the_trial_section(tmp_path: Path) -> None:
    sweep = load_sweep(written(tmp_path, SWEEP))
    expected = set_dotted(load_trial_document("digits"), "training.epochs", 3)
    assert trial_config(sweep.trial, source="") == trial_config(expected, source="")


def test_base_of_a_file_starts_at_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "trial.yaml").write_text("sigma: 0.5")
    sweep = load_sweep(written(tmp_path, {**SWEEP, "base": "trial.yaml"}))
    assert reference_config(sweep).sigma == 0.5


def test_base_of_an_assignment_starts_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "trial.yaml").write_text("sigma: 0.5")
    monkeypatch.chdir(tmp_path / "here")
    sweep = load_sweep(written(tmp_path, SWEEP), ["base=trial.yaml"])
    assert reference_config(sweep).sigma == 0.5


def test_sweep_without_base_has_the_defaults(tmp_path: Path) -> None:
    sweep = load_sweep(written(tmp_path, {**SWEEP, "base": None, "trial": {}}))
    assert reference_config(sweep) == TrialConfig()


def test_assignments_reach_the_sweep_the_trial_and_the_space(tmp_path: Path) -> None:
    sweep = load_sweep(
        written(tmp_path, SWEEP),
        [
            "trials=7",
            "pruning.enabled=false",
            "training.epochs=9",
            "trial.sigma=0.5",
            "space.seed={choice: [1, 2]}",
            "space.training.learning_rate={loguniform: [1e-4, 1e-2]}",
            "space.training.loss_weights.cosine=null",
            "training.loss_weights.cosine=2",
        ],
    )
    assert sweep.trials == 7
    assert not sweep.pruning.enabled
    config = trial_config(sweep.trial, source="")
    assert (config.training.epochs, config.sigma) == (9, 0.5)
    assert config.training.loss_weights.cosine == 2
    assert list(sweep.space) == ["seed", "training.learning_rate"]
    assert sweep.space["training.learning_rate"].loguniform == (1e-4, 1e-2)


@pytest.mark.parametrize(
    ("assignment", "parts"),
    [
        ("trails=3", ["trails is not a setting", "nearest: trials"]),
        ("trials=0", ["trials = 0", "greater than or equal to 1"]),
        ("search=tpr", ["search = 'tpr'", "'tpe', 'gp', 'random', 'grid' or 'rows'"]),
        ("pruning.enable=true", ["nearest: pruning.enabled"]),
        ("resources.trial.gpu=1.5", ["resources.trial", "gpu (1.5)"]),
        ("name=a/b", ["name = 'a/b'"]),
        ("epochs=3", ["epochs is not a setting", "training.epochs"]),
        ("training.epoch=3", ["nearest: training.epochs"]),
        ("training.epochs=0", ["training.epochs = 0", "greater than or equal to 1"]),
        ("trial.training.epochs=0", ["training.epochs = 0"]),
        ("space.seed={int: [-1, 1]}", ["space.seed", "seed = -1", "equal to 0"]),
        ("space.sead={int: [0, 1]}", ["space.sead", "nearest: seed"]),
        ("space.seed={itn: [0, 1]}", ["space.seed.itn", "nearest: space.seed.int"]),
        ("space.seed=3", ["space.seed = 3", "mapping of uniform, loguniform, int"]),
        ("space.seed=null", ["does not vary seed", "training.loss_weights.cosine"]),
        (
            "training.loss_weights.cosine=2",
            ["has no effect", "--set space.training.loss_weights.cosine=null"],
        ),
        (
            "points_to_evaluate=[{training.epochs: 3}]",
            ["point 1: the sweep does not vary training.epochs, but training.loss_weights.cosine"],
        ),
        (
            "points_to_evaluate=[{}, {training.loss_weights.cosine: 99}]",
            ["point 2", "cosine = 99", "uniform"],
        ),
        ("zzz=1", ["valid here: name, description", "certification"]),
    ],
)
def test_wrong_assignment_is_refused_in_one_line(
    tmp_path: Path, assignment: str, parts: list[str]
) -> None:
    text = one_line(load_sweep, written(tmp_path, SWEEP), [assignment])
    assert text.startswith("--set")
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"name": None}, ["name"]),
        ({"trails": 3}, ["trails", "nearest: trials"]),
        ({"trials": None}, ["trials is missing"]),
        ({"space": {}}, ["trials = 5", "space is empty"]),
        ({"search": "grid"}, ["trials = 5", "grid"]),
        ({"search": "grid", "trials": None}, ["loss_weights.cosine", "choice domains only"]),
        ({"trial": {"training": {"epochs": 0}}}, ["trial: training.epochs = 0"]),
        ({"trial": {"trainin": {}}}, ["trial: trainin is not a setting", "nearest: training"]),
        ({"trial": 3}, ["trial = 3", "mapping"]),
        (
            {"space": {"training.learning_rate": {"uniform": [0, 1]}}},
            ["space.training.learning_rate", "= 0.0", "greater than 0"],
        ),
        ({"space": {"seed": {"int": [0, 5], "step": 2}}}, ["space.seed", "multiple of step"]),
        ({"space": {"training": {"epochs": {"int": [1, 2]}}}}, ["space.training.epochs"]),
        (
            {
                "space": {
                    "denoiser.source": {"choice": ["dncnn", "unet"]},
                    "denoiser.depth": {"choice": [4, 6], "when": {"denoiser.source": "dncnn"}},
                },
                "points_to_evaluate": [{"denoiser.depth": 4}],
            },
            ["point 1: denoiser.depth exists for denoiser.source = 'dncnn' alone"],
        ),
    ],
)
def test_wrong_file_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], parts: list[str]
) -> None:
    path = written(tmp_path, {**SWEEP, **changes})
    text = one_line(load_sweep, path, [])
    assert text.startswith(path)
    for part in parts:
        assert part in text


def test_wrong_base_is_blamed_for_its_own_mistake(tmp_path: Path) -> None:
    base = tmp_path / "trial.yaml"
    base.write_text("sigma: -1")
    text = one_line(load_sweep, written(tmp_path, {**SWEEP, "base": str(base)}), [])
    assert text.startswith(f"{base}: sigma = -1")
    assert "choose one of cifar10, " in one_line(
        load_sweep, written(tmp_path, {**SWEEP, "base": "digit"}), []
    )


def test_unknown_preset_lists_the_presets() -> None:
    text = one_line(load_sweep, "quick", [])
    assert all(name in text for name in PRESETS)


def test_assignment_may_supply_what_the_file_lacks(tmp_path: Path) -> None:
    path = written(tmp_path, {**SWEEP, "trials": None})
    assert load_sweep(path, ["trials=2"]).trials == 2


def test_objectives_are_checked_before_anything_starts(tmp_path: Path) -> None:
    file = written(tmp_path, {**SWEEP, "objectives": ["certified_accuracy@0.25", "parameters"]})
    metrics = objectives_of(load_sweep(file))
    assert [metric.name for metric in metrics] == ["certified_accuracy@0.25", "parameters"]
    said = one_line(load_sweep, file, ["objectives=[latency]"])
    assert said.startswith(f"{file}: objectives latency: must not be the first")
    assert "must be one of average_certified_radius, " in one_line(
        load_sweep, file, ["objectives=[certified_accuracy@0.3]"]
    )


def test_the_leaderboard_ranks_by_a_certified_radius_or_the_average(tmp_path: Path) -> None:
    file = written(tmp_path, SWEEP)
    assert load_sweep(file).leaderboard.by is None
    assert [metric.name for metric in objectives_of(load_sweep(file))] == [
        "average_certified_radius"
    ]
    by = "certified_accuracy@0.5"
    assert load_sweep(file, [f"leaderboard.by={by}"]).leaderboard.by == by
    said = one_line(load_sweep, file, ["leaderboard.by=certified_accuracy@0.3"])
    assert said.startswith(
        f"{file}: leaderboard.by certified_accuracy@0.3: must be one of average_certified_radius, "
    )
    assert "certified_accuracy@0.75" in said
    other = ["leaderboard.by=certified_accuracy@0.3", "certification.radii=[0, 0.3]"]
    assert load_sweep(file, other).leaderboard.by == "certified_accuracy@0.3"


def test_all_mistakes_are_said_at_once(tmp_path: Path) -> None:
    broken = {
        "name": "a name",
        "trails": 5,
        "base": "digits",
        "trial": {"sigma": 40, "training": {"epoch": 3}},
        "space": {
            "boundary.attack": {"choices": ["pgd"]},
            "training.epochz": {"int": [1, 3]},
            # Of a choice that cannot be read.
            "boundary.steps": {"int": [0, 5], "when": {"boundary.attack": "pgd"}},
        },
    }
    path = written(tmp_path, broken)
    with pytest.raises(InputError) as error:
        load_sweep(path)
    assert all(line.startswith(path) for line in error.value.mistakes)
    said = [line.removeprefix(path) for line in error.value.mistakes]
    for line, begun in zip(
        said,
        (
            ": name = 'a name': must match",
            ": space.boundary.attack.choices is not a setting; nearest: ",
            ": trails is not a setting; nearest: trials.",
            ", trial: sigma = 40: must be less than or equal to 10.",
            ", trial: training.epoch is not a setting; nearest: training.epochs.",
            ": space.training.epochz: training.epochz is not a setting; nearest: training.epochs.",
        ),
        strict=True,
    ):
        assert line.startswith(begun)


def test_mistakes_of_trial_and_space_are_said_at_once_and_each_once(tmp_path: Path) -> None:
    space = {
        "training.loss_weights.cosine": {"uniform": [-1, 8]},
        "training.learning_rate": {"uniform": [0.1, 1]},
    }
    path = written(tmp_path, {**SWEEP, "trial": {"sigma": -1}, "space": space})
    with pytest.raises(InputError) as error:
        load_sweep(path)
    at_least = "must be greater than"
    assert error.value.mistakes == (
        f"{path}, trial: sigma = -1: {at_least} 0.",
        f"{path}: space.training.loss_weights.cosine: training.loss_weights.cosine = -1.0: "
        f"{at_least} or equal to 0.",
    )


def test_all_mistakes_of_a_space_are_said_at_once(tmp_path: Path) -> None:
    space = {
        "training.learning_rat": {"uniform": [0, 1]},
        "sigma": {"uniform": [0.1, 1]},
        "boundary.attack": {"choice": ["pgd", "fgsm"]},
        "boundary.steps": {"int": [1, 5]},
    }
    with pytest.raises(InputError) as error:
        load_sweep(written(tmp_path, {**SWEEP, "space": space}))
    assert len(error.value.mistakes) == 3
    for path in list(space)[:3]:
        assert any(f"space.{path}: " in line for line in error.value.mistakes)


def test_too_many_mistakes_are_counted(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        load_sweep(written(tmp_path, {**SWEEP, **{f"k{n}": n for n in range(80)}}))
    assert len(error.value.mistakes) == 51
    assert "30 more like these" in error.value.mistakes[-1]


def test_a_file_of_wandb_is_told_how_it_is_written_here(tmp_path: Path) -> None:
    foreign = {
        "program": "train.py",
        "method": "bayes",
        "metric": {"name": "loss", "goal": "minimize"},
        "run_cap": 20,
        "parameters": {
            "learning_rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 0.1},
            "batch_size": {"values": [32, 64]},
            "epochs": {"value": 30},
        },
    }
    with pytest.raises(InputError, match="is a sweep file of Weights & Biases") as error:
        load_sweep(written(tmp_path, foreign))
    for instead in (
        "{loguniform: [0.0001, 0.1]}",
        "{choice: [32, 64]}",
        "a `value` under `trial:`",
        "`method` as search: tpe",
        "`metric` as objectives: [average_certified_radius]",
        "`run_cap` as trials",
    ):
        assert instead in str(error.value)
