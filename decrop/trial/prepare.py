"""Preparation of trials: data, limited data and classifier from settings, checked on the way."""

from functools import cache as memory
from pathlib import Path

import torch

from decrop.black_box import endpoint_classifier
from decrop.cache import ContentCache
from decrop.classifiers.storage import AnyClassifier
from decrop.config import DatasetSettings, LimitedDataSettings, TrialConfig
from decrop.config.trial import Part
from decrop.data.datasets import Dataset, load_dataset
from decrop.data.limited import LimitedData, limited_data
from decrop.training.hooks import NO_HOOKS, Hooks
from decrop.training.trained_classifier import load_classifier
from decrop.trial.black_box import PreparedBlackBoxTrial
from decrop.trial.inputs import PreparedClassifierTrial, PreparedTrial, TrialInputs

_KINDS: dict[Part, type[PreparedTrial]] = {
    "denoiser": PreparedTrial,
    "classifier": PreparedClassifierTrial,
}


class Preparation:
    """Prepares trials, and opens the data that they share once."""

    def __init__(self) -> None:
        self._datasets = memory(load_dataset)
        self._limited = memory(self._taken)

    def dataset(self, settings: DatasetSettings) -> Dataset:
        """Open a dataset."""
        return self._datasets(settings)

    def limited(self, config: TrialConfig) -> LimitedData:
        """Take the limited data of a trial."""
        return self._limited(config.dataset, config.limited)

    def trial(self, config: TrialConfig) -> PreparedTrial:
        """Prepare a trial; nothing is trained, and nothing asked of a black box."""
        asks = config.classifier.asked is not None
        kind = PreparedBlackBoxTrial if asks else _KINDS[config.trains]
        return kind(config, self.dataset(config.dataset), self.limited(config))

    def _taken(self, dataset: DatasetSettings, limited: LimitedDataSettings) -> LimitedData:
        return limited_data(self.dataset(dataset), limited)


def prepare(config: TrialConfig) -> PreparedTrial:
    """Prepare a trial alone (see `Preparation.trial`)."""
    return Preparation().trial(config)


def load_inputs(
    config: TrialConfig,
    cache: ContentCache,
    device: torch.device,
    *,
    ledger: Path | None = None,
    hooks: Hooks = NO_HOOKS,
) -> TrialInputs:
    """Prepare a trial and load what it works on (see `PreparedTrial.load`)."""
    return prepare(config).load(cache, device, ledger=ledger, hooks=hooks)


def protected_classifier(
    config: TrialConfig,
    dataset: Dataset,
    cache: ContentCache,
    device: torch.device,
    ledger: Path | None,
) -> AnyClassifier:
    """Load the classifier to protect, without anything that a denoiser would need of it.

    Args:
        ledger: file that counts what is asked of a black box.

    Raises:
        RunError: a black box does not answer.
    """
    if config.classifier.asked is not None:
        return endpoint_classifier(config.classifier, dataset, ledger)
    return load_classifier(config, dataset, cache, device).cpu()
