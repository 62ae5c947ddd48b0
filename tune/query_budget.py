"""How many images a sweep asks a black box about at most, and whether its budget suffices."""

from collections.abc import Sequence

from decrop.config import DatasetSettings, TrialConfig
from decrop.data.datasets import Dataset, load_dataset
from decrop.trial.query_budget import (
    OPENING,
    TotalQueries,
    queries_of_a_certification,
    queries_of_stealing,
)
from tune.space import reference_config, row_trials, total_trials, trial_config_for, varied_paths
from tune.sweep_file import SweepConfig
from tune.worker import shares_inputs

# Settings that decide which images a surrogate is stolen with, or from whom.
_OF_STEALING = ("dataset", "limited", "classifier")


def sweep_queries(sweep: SweepConfig) -> TotalQueries | None:
    """Plan the questions of a sweep to its black box; None where it has none.

    One surrogate for all trials that ask about the same images, and certifications on the test
    split of the best few, trial 0 and the classifier without a denoiser.
    """
    reference = reference_config(sweep)
    rows = [trial_config_for(sweep, trial.parameters) for trial in row_trials(sweep)]
    trials = rows or [reference] * total_trials(sweep)
    finals = trials[: min(sweep.leaderboard.top + 1, len(trials))]
    varied = any(path.split(".")[0] in _OF_STEALING for path in sweep.space)
    loads = 1
    if not shares_inputs(sweep) or "seed" in varied_paths(sweep) or sweep.seeds > 1:
        # Each process opens the endpoint for itself.
        loads += len(trials) + len(finals) + 1
    return _plan(
        certified=[*finals, reference],
        stolen=_stolen_with_values(sweep) if varied else _distinct([reference, *trials]),
        loads=loads,
    )


def finals_queries(configs: Sequence[TrialConfig]) -> TotalQueries | None:
    """Plan the questions of final trainings whose surrogates are stolen already."""
    return _plan(certified=configs, stolen=[], loads=1 + len(configs))


def _plan(
    *, certified: Sequence[TrialConfig], stolen: Sequence[TrialConfig], loads: int
) -> TotalQueries | None:
    certified = [config for config in certified if config.classifier.asked is not None]
    if not certified:
        return None
    datasets = _datasets([*certified, *stolen])
    asked = certified[0].classifier.asked
    assert asked is not None
    return TotalQueries(
        source=certified[0].classifier.source,
        opening=OPENING * loads,
        stealing=sum(queries_of_stealing(config, datasets[config.dataset]) for config in stolen),
        certifying=sum(
            queries_of_a_certification(config, datasets[config.dataset]) for config in certified
        ),
        certifications=len(certified),
        budget=asked.query_budget,
        adaptive=any(config.certification.procedure == "adaptive" for config in certified),
    )


def _datasets(configs: Sequence[TrialConfig]) -> dict[DatasetSettings, Dataset]:
    return {settings: load_dataset(settings) for settings in {c.dataset for c in configs}}


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


def _stolen_with_values(sweep: SweepConfig) -> list[TrialConfig]:
    """Return for each trial the settings that ask most, as any of them may be tried."""
    tried = [reference_config(sweep)]
    for path, domain in sweep.space.items():
        if path.split(".")[0] in _OF_STEALING:
            tried += [trial_config_for(sweep, {path: v}) for v in domain.values_to_check()]
    datasets = _datasets(tried)
    dearest = max(tried, key=lambda c: queries_of_stealing(c, datasets[c.dataset]))
    return [dearest] * total_trials(sweep)
