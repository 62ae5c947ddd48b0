"""A classifier behind an HTTP endpoint, of which only predictions are known."""

from decrop.classifiers.endpoint.classifier import EndpointClassifier, EndpointFunction
from decrop.classifiers.endpoint.errors import EndpointError, QueryBudgetError
from decrop.classifiers.endpoint.ledger import QueryLedger, Spent
from decrop.classifiers.endpoint.load import endpoint_classifier

__all__ = [
    "EndpointClassifier",
    "EndpointError",
    "EndpointFunction",
    "QueryBudgetError",
    "QueryLedger",
    "Spent",
    "endpoint_classifier",
]
