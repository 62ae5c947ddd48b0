"""Checks of a sweep before it starts: data, classifiers, denoisers, and what they may do here."""

from decrop.trial.prepare import Preparation
from tune.plan import sweep_queries
from tune.sweep_file import SweepConfig
from tune.trust import Refused, check_sources, configs_to_check


def check_sweep(sweep: SweepConfig, *, refused: Refused = None) -> Preparation:
    """Check data, classifier and claims of a sweep, also at the ends of what it varies.

    A black box is asked nothing; whether its budget suffices is checked.

    Args:
        refused: what a classifier's source must not make this machine do: to import `code`, or
            anything that `strangers` may not, which is to have their endpoints asked too.
    """
    preparation = Preparation()
    checked = list(configs_to_check(sweep))
    for config in checked:
        check_sources(config, refused)
    for config in checked:
        preparation.trial(config)
    if (queries := sweep_queries(sweep, preparation)) is not None:
        queries.check()
    return preparation
