"""More trials for a sweep than its file asked for."""

from decrop.documents import validated
from decrop.errors import InputError
from tune.directory import SweepRecord
from tune.space import total_trials
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
