"""The trials of a sweep: trial 0, points of a grid, rows of a table, and how many there are."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from decrop.config import TrialConfig
from decrop.config.trial import Part, measures
from decrop.documents import get_dotted, merge, set_dotted, trial_config, validated
from decrop.errors import InputError
from decrop.wording import counted
from tune.domains import Space, exists, ordered, require_choices, row_document
from tune.results.metric import AVERAGE_RADIUS, Metric, metrics_named
from tune.sweep_file import PAPER, SweepConfig

# Settings that decide what the inputs are; where none of them is swept all trials share one copy.
INPUT_GROUPS = ("dataset", "limited", "classifier")
_ARCHITECTURE = "denoiser.source"

# DE-CROP's own choices (section 4 and supplement).
_PAPER = {
    "prior": {"kind": "none"},
    "training": {
        "loss_weights": {
            "label_consistency": 1.0,
            "cosine": 4.0,
            "mmd": 4.0,
            "discriminator": 1.0,
        }
    },
    "boundary": {"attack": "pgd"},
    "interpolation": {"mixing_coefficient": 0.5, "count": 1, "mode": "as_written"},
}


@dataclass(frozen=True)
class TrialKind:
    """What a sweep runs and says otherwise for trials that train a denoiser, or a classifier alone.

    Attributes:
        trains: what a trial trains.
        searched: what a search is over.
        classifier: what a trial does with its classifier.
        in_front: what a served model has in front of its classifier.
        certifies_undefended: whether the classifier is certified without a denoiser, too.
        losses: that are shown while training.
        legend: the runs in MLflow, in Markdown.
    """

    trains: Part
    searched: str
    classifier: Literal["protected", "trained"]
    in_front: str
    certifies_undefended: bool
    losses: tuple[str, ...]
    legend: str


DENOISER_TRIALS = TrialKind(
    trains="denoiser",
    searched="DE-CROP's settings",
    classifier="protected",
    in_front="DE-CROP denoiser in front of a ",
    certifies_undefended=True,
    losses=("total", "label_consistency", "cosine_similarity", "mmd", "discriminator"),
    legend=(
        "- `trial n` runs are scored on held-out images; trial 0 is the reference.\n"
        "- `final n (test)` runs are the best of them and trial 0, trained again on all limited "
        "data and certified once on the test split; `undefended (test)` has no denoiser.\n"
        "- `final n, seed s (test)` runs are those settings from other seeds.\n"
    ),
)
CLASSIFIER_TRIALS = TrialKind(
    trains="classifier",
    searched="classifiers' training",
    classifier="trained",
    in_front="",
    certifies_undefended=False,
    losses=("total", "cross_entropy", "runner_up_cross_entropy", "accuracy"),
    legend=(
        "- `trial n` runs train a classifier and are scored on held-out images; trial 0 is the "
        "reference.\n"
        "- Runs whose name ends in `(test)` are the best of them and trial 0, certified once "
        "on the test split.\n"
    ),
)


_KINDS = {kind.trains: kind for kind in (DENOISER_TRIALS, CLASSIFIER_TRIALS)}


def kind_of(config: TrialConfig) -> TrialKind:
    """Return the kind of a trial."""
    return _KINDS[config.trains]


def sweep_kind(sweep: SweepConfig) -> TrialKind:
    """Return the kind of a sweep's reference, by which the sweep as a whole is run and shown."""
    return kind_of(reference_config(sweep))


def reference_config(sweep: SweepConfig) -> TrialConfig:
    """Return the settings of trial 0: those of the sweep's file, whatever the sweep varies, or the
    paper's choices in their place (`SweepConfig.reference`); of a table, its reference row.

    The sweep's `base` must be merged already, as `load_sweep` does.
    """
    if sweep.search == "rows":
        return trial_config_for(sweep, row_trials(sweep)[0].parameters)
    given = merge(sweep.trial, _PAPER) if sweep.reference == PAPER else sweep.trial
    return trial_config(given, source=f"sweep {sweep.name}, trial")


def reference_words(config: TrialConfig) -> str:
    """Say what the settings of trial 0 are: the paper's, where they are so in all that it states.

    Defaults are the paper's values (`TrialConfig`).
    """
    stated = (
        config.boundary,
        config.interpolation,
        config.denoiser,
        config.prior,
        config.training.model_copy(update={"evaluations": 1, "early_stopping": False}),
    )
    papers = (
        *(type(group)() for group in stated[:-1]),
        type(config.training)(evaluations=1, early_stopping=False),
    )
    of_denoiser = kind_of(config) is DENOISER_TRIALS
    return "the paper’s choice" if of_denoiser and stated == papers else "as given"


def parameters_in(config: TrialConfig, space: Space) -> dict[str, Any]:
    """Return a trial's values of the settings of a space.

    One is left out where its `when` does not hold, or where the trial has no such setting.
    """
    document = config.model_dump()
    parameters: dict[str, Any] = {}
    for path in ordered(space):
        if exists(space[path], parameters):
            with suppress(KeyError):
                parameters[path] = get_dotted(document, path)
    return parameters


def reference_parameters(sweep: SweepConfig) -> dict[str, Any]:
    """Return trial 0's values of the settings that the sweep varies.

    Values may lie outside the domains.
    """
    if sweep.search == "rows":
        return row_trials(sweep)[0].parameters
    return parameters_in(reference_config(sweep), sweep.space)


def objectives_of(sweep: SweepConfig) -> list[Metric]:
    """Return what a sweep searches for; it prunes by the first, and ranks by it if not told."""
    if sweep.objectives == (AVERAGE_RADIUS,):
        return [Metric()]
    radii = reference_config(sweep).certification.radii
    return metrics_named(sweep.objectives, radii, source=f"sweep {sweep.name}: objectives")


def trial_config_for(sweep: SweepConfig, parameters: Mapping[str, Any]) -> TrialConfig:
    """Return the settings of a trial from its values of what the sweep varies."""
    document = row_document(sweep.trial, parameters)
    return trial_config(document, source=f"sweep {sweep.name} with {dict(parameters)}")


@dataclass(frozen=True)
class RowTrial:
    """A trial of a row: its settings by dotted path, with the seed where there are several."""

    row: str
    parameters: dict[str, Any]


def row_trials(sweep: SweepConfig) -> list[RowTrial]:
    """Return the trials of a table by number: those of its reference first, then row by row.

    A sweep without rows has none.
    """
    reference = sweep.reference or next(iter(sweep.rows), None)
    names = sorted(sweep.rows, key=lambda name: name != reference)
    if sweep.seeds == 1:
        return [RowTrial(name, dict(sweep.rows[name])) for name in names]
    return [
        RowTrial(name, {**sweep.rows[name], "seed": seed})
        for name in names
        for seed in range(sweep.seeds)
    ]


def trial_row(sweep: SweepConfig, number: int) -> str | None:
    """Return the name of a trial's row, None where the sweep is no table."""
    trials = row_trials(sweep)
    return trials[number].row if trials else None


# What a denoiser is before its training.
_ORIGIN = tuple(f"denoiser.{name}" for name in ("source", "arguments", "weights", "contract"))


def denoiser_origins(sweep: SweepConfig) -> list[dict[str, Any]]:
    """Return parameters of trials in which every origin of a denoiser occurs."""
    if sweep.search == "rows":
        return [trial.parameters for trial in row_trials(sweep)]
    space = {
        path: domain
        for path, domain in sweep.space.items()
        if measures(path, _ORIGIN) and domain.choice is not None
    }
    return grid_points(space)


def varied_paths(sweep: SweepConfig) -> list[str]:
    """Return the settings in which trials may differ, by dotted path, in the order of the file."""
    return list(
        dict.fromkeys([*sweep.space, *(path for row in sweep.rows.values() for path in row)])
    )


def trial_kinds(sweep: SweepConfig) -> set[str]:
    """Return what the trials of a sweep train: denoisers, classifiers, or either."""
    if sweep.search == "rows":
        rows = sweep.rows.values()
        return {kind_of(trial_config_for(sweep, row)).trains for row in rows}
    domain = sweep.space.get(_ARCHITECTURE)
    varied = () if domain is None else domain.choice or ()
    return {
        sweep_kind(sweep).trains,
        *(kind_of(trial_config_for(sweep, {_ARCHITECTURE: value})).trains for value in varied),
    }


def listed_trials(sweep: SweepConfig) -> list[dict[str, Any]] | None:
    """Return the parameters of trials 1, 2, …; None where Optuna is to suggest them."""
    if sweep.search == "rows":
        return [trial.parameters for trial in row_trials(sweep)[1:]]
    return grid_trials(sweep) if sweep.search == "grid" else None


def grid_trials(sweep: SweepConfig) -> list[dict[str, Any]]:
    """Return the points of a grid without the one, if any, whose settings are those of trial 0."""
    reference = reference_config(sweep)
    return [
        point for point in grid_points(sweep.space) if trial_config_for(sweep, point) != reference
    ]


def total_trials(sweep: SweepConfig) -> int:
    """Return how many trials a sweep has, trial 0 among them."""
    listed = listed_trials(sweep)
    if listed is not None:
        return 1 + len(listed)
    assert sweep.trials is not None
    return sweep.trials


def grid_points(space: Space) -> list[dict[str, Any]]:
    """Return every combination of the choices; one without the others where `when` says so."""
    require_choices(space)

    def complete(paths: list[str], point: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if not paths:
            yield point
        elif exists(space[paths[0]], point):
            for value in space[paths[0]].choice or ():
                yield from complete(paths[1:], {**point, paths[0]: value})
        else:
            yield from complete(paths[1:], point)

    return list(complete(ordered(space), {}))


def extended(sweep: SweepConfig, trials: int, *, existing: int) -> SweepConfig:
    """Return a sweep with another number of trials in total, of which `existing` have begun."""
    if sweep.search in ("grid", "rows"):
        what = "grid" if sweep.search == "grid" else "table of rows"
        raise InputError(
            f"--trials {trials}: the sweep is a {what}, which has "
            f"{counted(total_trials(sweep), 'trial')} of its own; drop --trials."
        )
    if trials < existing:
        raise InputError(
            f"--trials {trials}: the sweep has begun {counted(existing, 'trial')} already; give "
            f"at least as many, or drop --trials to go on to {sweep.trials}."
        )
    document = {**sweep.model_dump(mode="json"), "trials": trials}
    return validated(SweepConfig, document, source=f"--trials {trials}")


def with_query_budget(sweep: SweepConfig, budget: int) -> SweepConfig:
    """Return a sweep that may ask its endpoint about another number of images."""
    if reference_config(sweep).classifier.asked is None:
        raise InputError(f"--query-budget {budget}: the sweep asks no endpoint; drop it.")
    trial = set_dotted(sweep.trial, "classifier.endpoint.query_budget", budget)
    return sweep.model_copy(update={"trial": trial})
