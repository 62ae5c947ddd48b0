"""What trials failed with."""

from collections import Counter
from collections.abc import Iterator, Sequence

from decrop.files import is_full_disk


def last_line(text: str) -> str:
    """Return the last line of a traceback, which names the error."""
    return text.strip().splitlines()[-1]


def full_disk(error: BaseException) -> str | None:
    """Return what could not be written if a full disk is behind an error, None otherwise.

    Ray hands on the errors of other processes as the cause of its own.
    """
    full = [raised for raised in _behind(error) if is_full_disk(raised)]
    if not full:
        return None
    named = next((raised.filename for raised in full if raised.filename), "a file")
    return f"the disk is full: {named} could not be written"


def common_cause(errors: Sequence[str]) -> tuple[str, int]:
    """Return the error that most trials failed with, and of how many trials it is.

    Errors are of one kind if their types are, for their messages may tell of an epoch or a loss;
    the message returned is the commonest of its kind.

    Args:
        errors: tracebacks, at least one.
    """
    lines = [last_line(error) for error in errors]
    kind, count = Counter(map(_kind, lines)).most_common(1)[0]
    message, _ = Counter(line for line in lines if _kind(line) == kind).most_common(1)[0]
    return message, count


def _behind(error: BaseException) -> Iterator[OSError]:
    """Yield the errors of the operating system that have led to an error, the last one first."""
    current: BaseException | None = error
    while current is not None:
        handed_on = getattr(current, "cause", None)
        raised = handed_on if isinstance(handed_on, BaseException) else current
        if isinstance(raised, OSError):
            yield raised
        current = raised.__cause__ or raised.__context__


def _kind(line: str) -> str:
    return line.partition(":")[0]
