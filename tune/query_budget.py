"""Query budget of a sweep: the most images that it asks a black box about."""

from collections.abc import Sequence

from decrop.config import TrialConfig
from decrop.trial.inputs import PreparedTrial
from decrop.trial.prepare import Preparation
from decrop.trial.query_budget import TotalQueries, planned_queries
from tune.space import reference_config, row_trials, total_trials, trial_config_for, varied_paths
from tune.sweep_file import SweepConfig
from tune.worker import shares_inputs

# Settings that decide which images a surrogate is stolen with, or from whom.
_OF_STEALING = ("dataset", "limited", "classifier")


def sweep_queries(
    sweep: SweepConfig, preparation: Preparation | None = None
) -> TotalQueries | None:
    """Plan the questions of a sweep to its black box; None where it has none.

    One surrogate for all trials that ask about the same images, and certifications on the test
    split of the best few, trial 0 and the classifier without a denoiser.

    Args:
        sweep: its settings.
        preparation: of its trials, which share data with others that were prepared.
    """
    reference = reference_config(sweep)
    rows = [trial_config_for(sweep, trial.parameters) for trial in row_trials(sweep)]
    trials = rows or [reference] * total_trials(sweep)
    finals = trials[: min(sweep.leaderboard.top + 1, len(trials))]
    preparation = preparation or Preparation()
    certified = _prepared([*finals, reference], preparation)
    if not certified:
        return None
    varied = any(path.split(".")[0] in _OF_STEALING for path in sweep.space)
    loads = 1
    if not shares_inputs(sweep) or "seed" in varied_paths(sweep) or sweep.seeds > 1:
        # Each process opens the endpoint for itself.
        loads += len(trials) + len(finals) + 1
    if varied:
        stolen = [_dearest(sweep, preparation)] * total_trials(sweep)
    else:
        stolen = _prepared(_distinct([reference, *trials]), preparation)
    return planned_queries(certified, stolen, loads=loads)


def finals_queries(configs: Sequence[TrialConfig]) -> TotalQueries | None:
    """Plan the questions of final trainings whose surrogates are stolen already."""
    return planned_queries(_prepared(configs, Preparation()), [], loads=1 + len(configs))


def _prepared(configs: Sequence[TrialConfig], preparation: Preparation) -> list[PreparedTrial]:
    """Prepare the trials that ask a black box, equal ones once."""
    found: list[PreparedTrial] = []
    for config in configs:
        if config.classifier.asked is not None:
            same = next((trial for trial in found if trial.config == config), None)
            found.append(same or preparation.trial(config))
    return found


def _distinct(configs: Sequence[TrialConfig]) -> list[TrialConfig]:
    """Return one of the configs of each surrogate's images."""
    found: dict[object, TrialConfig] = {}
    for config in configs:
        surrogate = config.classifier.surrogate
        if config.classifier.asked is not None and surrogate is not None:
            images = repr((surrogate.of_the_images(), surrogate.weights))
            key = (config.classifier.source, config.dataset, config.limited, images)
            found.setdefault(key, config)
    return list(found.values())


def _dearest(sweep: SweepConfig, preparation: Preparation) -> PreparedTrial:
    """Prepare the settings that ask most, as any of those that are varied may be tried."""
    tried = [reference_config(sweep)]
    for path, domain in sweep.space.items():
        if path.split(".")[0] in _OF_STEALING:
            tried += [trial_config_for(sweep, {path: v}) for v in domain.values_to_check()]
    return max(map(preparation.trial, tried), key=lambda trial: trial.stealing_queries)
