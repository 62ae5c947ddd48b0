"""What a sweep imports and asks, which takes the trust of whoever goes on with it."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from decrop.config import TrialConfig
from decrop.config.classifier_source import imports_code, source_kind
from decrop.errors import InputError
from tune.directory import SweepDirectory
from tune.space import INPUT_GROUPS, denoiser_origins, reference_config, trial_config_for
from tune.sweep_file import SweepConfig

Refused = Literal["code", "strangers"] | None


def resume_command(
    directory: SweepDirectory, address: str | None = None, tracking_uri: str | None = None
) -> str:
    """Return the command that goes on with a sweep there, with --trust-code if it takes it."""
    command = f"decrop resume {directory.quoted}"
    for option, value in (("--address", address), ("--tracking-uri", tracking_uri)):
        if value is not None:
            command += f" {option} {shlex.quote(value)}"
    try:
        for config in configs_to_check(directory.read_record().sweep):
            check_sources(config, "strangers")
    except InputError:
        return f"{command} --trust-code"
    return command


def configs_to_check(sweep: SweepConfig) -> Iterator[TrialConfig]:
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


def check_sources(config: TrialConfig, refused: Refused) -> None:
    """Raise InputError where settings name what is refused (`check_sweep`)."""
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
