"""An endpoint, behind which there is a network that nobody can load."""

from decrop.classifiers.sources.network import Network
from decrop.config import ClassifierSettings
from decrop.data.datasets import Dataset
from decrop.errors import InputError


def no_network(settings: ClassifierSettings, dataset: Dataset) -> Network:
    """Refuse to load what only answers.

    Raises:
        InputError: always.
    """
    raise InputError(
        f"classifier.source: {settings.source} answers with predictions only, so nothing can be "
        "trained through it; decrop certify and decrop inspect ask it, and decrop classifier steal "
        "trains a surrogate from its answers."
    )
