"""Leakage check: classifiers that trials are compared by are not trained on held-out images."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from decrop.config import TrialConfig
from decrop.documents import set_dotted, trial_config
from decrop.errors import InputError
from tune.domains import Rows, Space, row_document

_TRAINED_ON = "classifier.training.trained_on"
_ARCHITECTURE = "denoiser.source"
# Settings of a trial's denoiser; the rest of `training` says when a trial is scored.
_OF_THE_DENOISER = ("boundary.", "interpolation.", "prior.", "denoiser.", "training.")
_OF_EVERY_TRIAL = (_ARCHITECTURE, "training.evaluations", "training.early_stopping")


def check_held_out(document: Mapping[str, Any], space: Space, rows: Rows, *, source: str) -> None:
    """Check that no classifier that trials are compared by is trained on held-out images.

    Args:
        document: the settings that all trials share.
    """
    configs = list(_configs(document, space, rows))
    varied = _classifiers_differ(configs) if rows else _varies_classifiers(space)
    for config in configs:
        training = config.classifier.training
        if training is None or training.trained_on != "all":
            continue
        if config.trains == "classifier" or varied:
            raise InputError(
                f"{source}: {_TRAINED_ON} = 'all': trials are compared on held-out images, which "
                "the classifiers they train must not have seen; set it to without_held_out, or to "
                "limited."
            )
    if rows:
        for row, config in zip(rows.items(), configs, strict=True):
            _check_effect(config, row[1], f"{source}, row {row[0]}")
    elif {config.trains for config in configs} == {"classifier"}:
        _check_effect(configs[0], space, source)


def _configs(document: Mapping[str, Any], space: Space, rows: Rows) -> Iterator[TrialConfig]:
    """Yield the settings of each row, or all that a space makes of who is trained on what."""
    if rows:
        for name, row in rows.items():
            yield trial_config(row_document(document, row), source=f"row {name}")
        return
    yield trial_config(document, source="trial")
    choices = {
        path: space[path].choice or () for path in (_ARCHITECTURE, _TRAINED_ON) if path in space
    }
    for values in product(*choices.values()):
        laid = dict(document)
        for path, value in zip(choices, values, strict=True):
            laid = set_dotted(laid, path, value)
        yield trial_config(laid, source="trial")


def _classifiers_differ(configs: list[TrialConfig]) -> bool:
    """Tell whether the classifiers differ that are trained for rows' denoisers."""
    trained = {
        (config.classifier.source, config.classifier.training, _noise(config))
        for config in configs
        if config.pretrains_classifier
    }
    return len(trained) > 1


def _varies_classifiers(space: Space) -> bool:
    """Tell whether trials train different classifiers."""
    return "classifier.source" in space or any(
        path.startswith("classifier.training.") for path in space
    )


def _noise(config: TrialConfig) -> float | None:
    """Return the trial's sigma where its classifier is trained with it."""
    training = config.classifier.training
    if training is None or not training.noisy or training.sigma is not None:
        return None
    return config.sigma


def _check_effect(config: TrialConfig, varied: Mapping[str, Any], here: str) -> None:
    if config.trains == "denoiser":
        return
    for path in varied:
        if path.startswith(_OF_THE_DENOISER) and path not in _OF_EVERY_TRIAL:
            raise InputError(f"{here}: {path}: has no effect where there is no denoiser; drop it.")
