"""What can go wrong when an endpoint is asked; each message is one line."""

from decrop.errors import RunError


class EndpointError(RunError):
    """An endpoint does not answer, or not what a classifier must."""


class WrongAnswerError(EndpointError):
    """An endpoint answers, but with something else."""


class QueryBudgetError(RunError):
    """More images would be sent than classifier.endpoint.query_budget allows."""
