"""The trials of a sweep: trial 0, what Optuna may suggest, and the points of a grid."""

from collections.abc import Iterator, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from decrop.config import TrialConfig
from decrop.documents import get_dotted, merge, set_dotted, trial_config
from tune.domains import Domain, Space, exists, ordered, require_choices
from tune.sweep_file import SweepConfig

# DE-CROP's own choices (section 4 and supplement); the rest of trial 0 is the sweep's.
_REFERENCE = {
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


def reference_config(sweep: SweepConfig) -> TrialConfig:
    """Return the settings of trial 0: the paper's choices with the sweep's schedule, data and
    denoiser, whatever the sweep varies.

    The sweep's `base` must be merged already, as `load_sweep` does.
    """
    return trial_config(merge(sweep.trial, _REFERENCE), source=f"sweep {sweep.name}, trial")


def reference_parameters(sweep: SweepConfig) -> dict[str, Any]:
    """Return trial 0's values of the settings that the sweep varies.

    A setting is left out where its `when` does not hold for trial 0, or where trial 0 has no such
    setting; values may lie outside the domains.
    """
    document = reference_config(sweep).model_dump()
    parameters: dict[str, Any] = {}
    for path in ordered(sweep.space):
        if exists(sweep.space[path], parameters):
            try:
                parameters[path] = get_dotted(document, path)
            except KeyError:
                continue
    return parameters


def trial_config_for(sweep: SweepConfig, parameters: Mapping[str, Any]) -> TrialConfig:
    """Return the settings of a trial from its values of what the sweep varies.

    Raises:
        InputError: the values do not go together.
    """
    document = sweep.trial
    for path, value in parameters.items():
        document = set_dotted(document, path, value)
    return trial_config(document, source=f"sweep {sweep.name} with {dict(parameters)}")


def grid_trials(sweep: SweepConfig) -> list[dict[str, Any]]:
    """Return the points of a grid without the one, if any, whose settings are those of trial 0.

    Raises:
        InputError: a domain is no choice, or the values of a point do not go together.
    """
    reference = reference_config(sweep)
    return [
        point for point in grid_points(sweep.space) if trial_config_for(sweep, point) != reference
    ]


def total_trials(sweep: SweepConfig) -> int:
    """Return how many trials a sweep has, trial 0 among them."""
    if sweep.search == "grid":
        return 1 + len(grid_trials(sweep))
    assert sweep.trials is not None
    return sweep.trials


def suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """Let Optuna draw a value for every domain that exists beside the values drawn before it."""
    parameters: dict[str, Any] = {}
    for path in ordered(space):
        if exists(space[path], parameters):
            parameters[path] = _suggest_one(trial, path, space[path])
    return parameters


def grid_points(space: Space) -> list[dict[str, Any]]:
    """Return every combination of the choices; one without the others where `when` says so.

    Raises:
        InputError: a domain is no choice.
    """
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


def distributions(space: Space, parameters: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions of given parameters, as `optuna.create_trial` wants them."""
    return {path: space[path].distribution() for path in parameters}


def contains(space: Space, parameters: Mapping[str, Any]) -> bool:
    """Return whether parameters are what `suggest` could have drawn."""
    existing = [path for path in space if exists(space[path], parameters)]
    return set(existing) == set(parameters) and all(
        space[path].contains(parameters[path]) for path in existing
    )


def _suggest_one(trial: optuna.Trial, path: str, domain: Domain) -> Any:
    distribution = domain.distribution()
    if isinstance(distribution, FloatDistribution):
        low, high = distribution.low, distribution.high
        return trial.suggest_float(path, low, high, log=distribution.log)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(path, distribution.low, distribution.high, step=distribution.step)
    return trial.suggest_categorical(path, domain.choice or ())
