"""Where the network of a classifier comes from: one module for each form of `classifier.source`."""

from decrop.classifiers.sources.load import load_network
from decrop.classifiers.sources.network import Network

__all__ = ["Network", "load_network"]
