"""What trials that failed have in common."""

from collections import Counter
from collections.abc import Sequence


def last_line(text: str) -> str:
    """Return the last line of a traceback, which names the error."""
    return text.strip().splitlines()[-1]


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


def _kind(line: str) -> str:
    return line.partition(":")[0]
