"""More trials or queries for a sweep than its file asked for."""

from decrop.documents import set_dotted, validated
from decrop.errors import InputError
from tune.directory import SweepRecord
from tune.space import reference_config, total_trials
from tune.sweep_file import SweepConfig


def extended(record: SweepRecord, trials: int, *, existing: int) -> SweepRecord:
    """Return a sweep's record that asks for another number of trials.

    Args:
        record: of the sweep.
        trials: in total, with trial 0.
        existing: trials that have begun.

    Raises:
        InputError: the sweep has a number of its own, or more trials than that.
    """
    sweep = SweepConfig.model_validate(record.sweep)
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
    document = {**record.sweep, "trials": trials}
    validated(SweepConfig, document, source=f"--trials {trials}")
    return record.model_copy(update={"sweep": document})


def with_query_budget(record: SweepRecord, budget: int) -> SweepRecord:
    """Return a sweep's record that may ask its endpoint about another number of images.

    Raises:
        InputError: the sweep has no endpoint.
    """
    sweep = SweepConfig.model_validate(record.sweep)
    if reference_config(sweep).classifier.asked is None:
        raise InputError(f"--query-budget {budget}: the sweep asks no endpoint; drop it.")
    path = "trial.classifier.endpoint.query_budget"
    return record.model_copy(update={"sweep": set_dotted(record.sweep, path, budget)})
