"""How commands show what they have asked of an endpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decrop.cli.output import console
from decrop.errors import InputError

if TYPE_CHECKING:
    from decrop.classifiers.endpoint import EndpointClassifier


@contextmanager
def queries_shown(endpoint: "EndpointClassifier | None") -> Iterator[None]:
    """Say after a block, however it ends, what an endpoint has been asked in all."""
    try:
        yield
    finally:
        if endpoint is not None:
            spent = endpoint.client.ledger.spent()
            budget = endpoint.client.ledger.budget
            of_budget = "" if budget is None else f" of a budget of {budget:,}"
            path = endpoint.client.ledger.path
            where = "" if path is None else f" (counted in {path})"
            again = f", {spent.retries:,} of them repeated" if spent.retries else ""
            console.print(
                f"asked {endpoint.url} for {spent.asked:,} images{of_budget} so far, in "
                f"{spent.requests:,} requests{again}{where}",
                highlight=False,
                soft_wrap=True,
            )


def refuse_queries(queries: Path | None, *, asked: bool) -> None:
    """Raise InputError where a count of queries is named, but no endpoint is asked."""
    if queries is not None and not asked:
        raise InputError(f"--queries {queries} is of endpoints, but none is asked here.")


def queries_document(endpoint: "EndpointClassifier | None") -> dict[str, Any]:
    """Return the same for JSON, nothing without an endpoint."""
    if endpoint is None:
        return {}
    spent = endpoint.client.ledger.spent()
    return {
        "queries": {
            "asked": spent.asked,
            "answered": spent.answered,
            "requests": spent.requests,
            "retries": spent.retries,
            "budget": endpoint.client.ledger.budget,
        }
    }
