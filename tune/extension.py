"""More trials or queries for a sweep than its file asked for."""

from decrop.documents import set_dotted, validated
from decrop.errors import InputError
from tune.space import reference_config, total_trials
from tune.sweep_file import SweepConfig


def extended(sweep: SweepConfig, trials: int, *, existing: int) -> SweepConfig:
    """Return a sweep with another number of trials in total, of which `existing` have begun.

    Raises:
        InputError: the sweep has a number of its own, or more trials than that.
    """
    if sweep.search in ("grid", "rows"):
        what = "grid" if sweep.search == "grid" else "table of rows"
        raise InputError(
            f"--trials {trials}: the sweep is a {what}, which has {total_trials(sweep)} trials of "
            "its own; drop --trials."
        )
    if trials < existing:
        raise InputError(
            f"--trials {trials}: the sweep has begun {existing} trials already; give at least as "
            f"many, or drop --trials to go on to {sweep.trials}."
        )
    document = {**sweep.model_dump(mode="json"), "trials": trials}
    return validated(SweepConfig, document, source=f"--trials {trials}")


def with_query_budget(sweep: SweepConfig, budget: int) -> SweepConfig:
    """Return a sweep that may ask its endpoint about another number of images.

    Raises:
        InputError: the sweep has no endpoint.
    """
    if reference_config(sweep).classifier.asked is None:
        raise InputError(f"--query-budget {budget}: the sweep asks no endpoint; drop it.")
    trial = set_dotted(sweep.trial, "classifier.endpoint.query_budget", budget)
    return sweep.model_copy(update={"trial": trial})
