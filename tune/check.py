"""Checks of a sweep before it starts: data, classifiers, denoisers, and what they may do here."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from decrop.config import TrialConfig
from decrop.config.classifier_source import imports_code, source_kind
from decrop.errors import InputError
from decrop.trial.prepare import Preparation
from tune.directory import SweepDirectory
from tune.plan import sweep_queries
from tune.space import denoiser_origins, reference_config, trial_config_for
from tune.sweep_file import SweepConfig
from tune.worker import INPUT_GROUPS

Refused = Literal["code", "strangers"] | None


def check_sweep(sweep: SweepConfig, *, refused: Refused = None) -> Preparation:
    """Check data, classifier and claims of a sweep, also at the ends of what it varies.

    A black box is asked nothing; whether its budget suffices is checked.

    Args:
        refused: what a classifier's source must not make this machine do: to import `code`, or
            anything that `strangers` may not, which is to have their endpoints asked too.
    """
    preparation = Preparation()
    checked = list(_configs_to_check(sweep))
    for config in checked:
        _check_sources(config, refused)
    for config in checked:
        preparation.trial(config)
    if (queries := sweep_queries(sweep, preparation)) is not None:
        queries.check()
    return preparation


def resume_command(
    directory: SweepDirectory, address: str | None = None, tracking_uri: str | None = None
) -> str:
    """Return the command that goes on with a sweep where it ran, with the flag it may take."""
    command = f"decrop resume {directory.quoted}"
    for option, value in (("--address", address), ("--tracking-uri", tracking_uri)):
        if value is not None:
            command += f" {option} {shlex.quote(value)}"
    try:
        for config in _configs_to_check(directory.read_record().sweep):
            _check_sources(config, "strangers")
    except InputError:
        return f"{command} --trust-code"
    return command


def _configs_to_check(sweep: SweepConfig) -> Iterator[TrialConfig]:
    """Yield settings in which all classifiers and data of a sweep occur, each once."""
    found: list[TrialConfig] = []
    for parameters in _parameters_to_check(sweep):
        config = trial_config_for(sweep, parameters) if parameters else reference_config(sweep)
        if not any(_same_inputs(config, other) for other in found):
            found.append(config)
            yield config


def _parameters_to_check(sweep: SweepConfig) -> Iterator[Mapping[str, Any]]:
    yield {}
    for path, domain in sweep.space.items():
        if path.split(".")[0] in INPUT_GROUPS:
            yield from ({path: value} for value in domain.values_to_check())
    yield from denoiser_origins(sweep)


def _check_sources(config: TrialConfig, refused: Refused) -> None:
    classifier, denoiser = config.classifier.source, config.denoiser.source
    does = None
    if refused is not None and imports_code(classifier):
        does = f"classifier.source: {classifier} would be imported"
    elif refused is not None and config.denoiser.form.imports_code:
        does = f"denoiser.source: {denoiser} would be imported"
    elif refused == "strangers" and source_kind(classifier) == "endpoint":
        does = f"classifier.source: {classifier} would be asked"
    if does is not None:
        raise InputError(
            f"{does}, which takes --trust-code; give it if you trust who wrote the "
            f"{'sweep file' if refused == 'code' else 'sweep directory'}."
        )


def _same_inputs(first: TrialConfig, second: TrialConfig) -> bool:
    groups = (*INPUT_GROUPS, "trains")
    same = all(getattr(first, group) == getattr(second, group) for group in groups)
    return same and first.denoiser.origin == second.denoiser.origin
