"""A classifier behind an HTTP endpoint, of which only predictions are known."""

from decrop.black_box.classifier import EndpointClassifier
from decrop.black_box.client import EndpointError
from decrop.black_box.ledger import QueryBudgetError, QueryLedger, Spent
from decrop.black_box.memory import BlackBox, remembered
from decrop.black_box.opening import endpoint_classifier

__all__ = [
    "BlackBox",
    "EndpointClassifier",
    "EndpointError",
    "QueryBudgetError",
    "QueryLedger",
    "Spent",
    "endpoint_classifier",
    "remembered",
]
