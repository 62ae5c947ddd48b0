"""Networks at URIs, which other packages load."""

from importlib.metadata import entry_points

from decrop.classifiers.sources.network import Network, Source
from decrop.config import ClassifierSettings
from decrop.config.classifier_source import uri_scheme
from decrop.data.datasets import Dataset
from decrop.errors import InputError

# Scheme of a URI to a `Source`.
_GROUP = "decrop.classifier_sources"


def network_at_uri(settings: ClassifierSettings, dataset: Dataset) -> Network:
    """Load a network by whoever registers the scheme of the URI.

    Raises:
        InputError: nobody does, or the network cannot be used.
    """
    scheme = uri_scheme(settings.source)
    found = entry_points(group=_GROUP, name=scheme)
    if not found:
        known = sorted({f"{point.name}:/" for point in entry_points(group=_GROUP)})
        raise InputError(
            f"classifier.source: {settings.source}: nothing installed reads {scheme}: URIs"
            + (f"; there are {', '.join(known)}." if known else "; install 'decrop[sweep]'.")
        )
    source: Source = next(iter(found)).load()
    return source(settings, dataset)
