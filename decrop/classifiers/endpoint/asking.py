"""One request: numbers in, probabilities out."""

import threading
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from decrop.classifiers.endpoint.client import EndpointClient
from decrop.classifiers.endpoint.errors import WrongAnswerError
from decrop.classifiers.endpoint.protocol import decode, encode, most_bytes
from decrop.config.endpoint import Answers, Protocol


def ask(
    client: EndpointClient,
    sent: NDArray[Any],
    *,
    protocol: Protocol,
    answers: Literal["auto", Answers],
    class_count: int,
    retries: int | None = None,
    stop: threading.Event | None = None,
) -> tuple[NDArray[np.float32], Answers]:
    """Ask for images by one request (and its repetitions).

    Args:
        client: of the endpoint.
        sent: numbers [B, C, H, W], B >= 1 (`as_sent`).
        protocol: to ask in.
        answers: that are expected (`decode`).
        class_count: K.
        retries: instead of those of the client's settings.
        stop: once it is set, the request is not repeated any more.

    Returns:
        probabilities, float32 [B, K], and what the answer held.

    Raises:
        EndpointError: the endpoint does not answer, or not what a classifier must.
        QueryBudgetError: the budget does not suffice.
    """
    count = len(sent)
    body = client.post(
        encode(protocol, sent),
        images=count,
        most_bytes=most_bytes(count, class_count),
        retries=retries,
        stop=stop,
    )
    try:
        found = decode(body, protocol, answers, count=count, class_count=class_count)
    except ValueError as error:
        raise WrongAnswerError(f"{client.url} {client.shown(error)}. {client.told(body)}") from None
    client.ledger.answered(count)
    return found
