"""What MLflow can fail with, in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

_SERVER_ERROR = 500


class TrackingError(RuntimeError):
    """Something could not be shown in MLflow; the sweep directory has it, and a repeat goes on."""


@contextmanager
def explained(to_be: str) -> Iterator[None]:
    """Raise what MLflow fails with inside the block as an error of ours.

    Raises:
        TrackingError: MLflow cannot be reached or refuses to be `to_be`: read, updated.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise TrackingError(f"MLflow cannot be {to_be}: {one_line(error)}") from error


def is_outage(error: Exception) -> bool:
    """Tell whether it is MLflow as a whole that failed rather than one request."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.get_http_status_code() >= _SERVER_ERROR  # type: ignore[no-untyped-call]


def one_line(error: Exception) -> str:
    """Return the first line of what an error says, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
