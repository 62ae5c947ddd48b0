"""What trials failed with."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from decrop.fence import LostFolderError
from decrop.files import is_full_disk
from decrop.trial_files import ChangedInputsError

# Why a sweep stops before all its work is done.
Reason = Literal["interrupted", "time", "failures", "disk", "inputs", "lost"]


def last_line(text: str) -> str:
    """Return the last line of a traceback, which names the error."""
    return text.strip().splitlines()[-1]


def ends_sweep(error: BaseException) -> tuple[Reason, str] | None:
    """Return why a sweep must stop for an error that is no trial's own; None for any other.

    Ray hands on the errors of other processes as the cause of its own.
    """
    raised = list(_behind(error))
    for found in raised:
        if isinstance(found, ChangedInputsError):
            return "inputs", str(found)
        if isinstance(found, LostFolderError):
            return "lost", str(found)
    full = [found for found in raised if isinstance(found, OSError) and is_full_disk(found)]
    if not full:
        return None
    named = next((found.filename for found in full if found.filename), "a file")
    return "disk", f"the disk is full: {named} could not be written"


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


def _behind(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors that have led to an error, the last one first."""
    current: BaseException | None = error
    while current is not None:
        handed_on = getattr(current, "cause", None)
        raised = handed_on if isinstance(handed_on, BaseException) else current
        yield raised
        current = raised.__cause__ or raised.__context__


def _kind(line: str) -> str:
    return line.partition(":")[0]
