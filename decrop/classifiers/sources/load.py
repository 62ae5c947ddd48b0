"""From `classifier.source` to the source of its form."""

from decrop.classifiers.sources.network import Network
from decrop.config import ClassifierSettings
from decrop.config.classifier_source import SOURCES, source_kind
from decrop.data.datasets import Dataset


def load_network(settings: ClassifierSettings, dataset: Dataset) -> Network:
    """Load the network of a classifier, untrained where it is to be trained.

    Runs code that the settings name, so they must be the user's own.

    Raises:
        InputError: the source or its weights cannot be used.
    """
    network: Network = SOURCES.build(source_kind(settings.source), settings, dataset)
    return network
