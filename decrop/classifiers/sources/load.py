"""From `classifier.source` to the source of its form."""

from decrop.classifiers.sources.endpoint import no_network
from decrop.classifiers.sources.factory import factory_network
from decrop.classifiers.sources.network import Network, Source
from decrop.classifiers.sources.program import program_network
from decrop.classifiers.sources.registered import registered_network
from decrop.classifiers.sources.uri import network_at_uri
from decrop.classifiers.sources.zoo import zoo_network
from decrop.config import ClassifierSettings
from decrop.config.classifier_source import SourceKind, source_kind
from decrop.data.datasets import Dataset

_SOURCES: dict[SourceKind, Source] = {
    "registered": registered_network,
    "factory": factory_network,
    "timm": zoo_network,
    "torchvision": zoo_network,
    "program": program_network,
    "uri": network_at_uri,
    "endpoint": no_network,
}


def load_network(settings: ClassifierSettings, dataset: Dataset) -> Network:
    """Load the network of a classifier, untrained where it is to be trained.

    Runs code that the settings name, so they must be the user's own.

    Raises:
        InputError: the source or its weights cannot be used.
    """
    return _SOURCES[source_kind(settings.source)](settings, dataset)
