"""A classifier behind an HTTP endpoint, of which only predictions are known."""

from decrop.black_box.classifier import EndpointClassifier, endpoint_classifier
from decrop.black_box.client import EndpointError
from decrop.black_box.ledger import QueryBudgetError, QueryLedger, Spent

__all__ = [
    "EndpointClassifier",
    "EndpointError",
    "QueryBudgetError",
    "QueryLedger",
    "Spent",
    "endpoint_classifier",
]
