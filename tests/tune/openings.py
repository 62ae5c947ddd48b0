"""Files that this process opens, counted."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_NAMES = {"open": "openings", "os.scandir": "listings"}
_counters: list[Counter[str]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    # A file that is open already may be opened again by its number.
    if _counters and event in _NAMES and not isinstance(arguments[0], int):
        for counter in _counters:
            counter[_NAMES[event]] += 1


@cache
def _install() -> None:
    # Python has no way to take a hook away again.
    sys.addaudithook(_hook)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count `openings` of files by Python, and `listings` of folders, in a block."""
    _install()
    counter: Counter[str] = Counter()
    _counters.append(counter)
    try:
        yield counter
    finally:
        # By identity: two counters may be equal.
        _counters[:] = [other for other in _counters if other is not counter]
