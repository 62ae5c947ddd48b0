"""Count of the images that an endpoint was asked, shared by the processes that ask it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from filelock import FileLock

from decrop.errors import InputError, RunError
from decrop.files import read_json, write_json
from decrop.wording import counted


class QueryBudgetError(RunError):
    """More images would be sent than classifier.endpoint.query_budget allows."""


# Between looks at whether another process has let the file go.
_POLL_SECONDS = 0.005
_LARGEST = 1e15
# Between threads of this process; the file's lock is between processes.
_threads = threading.Lock()


@dataclass(frozen=True)
class Spent:
    """What has been asked so far.

    Attributes:
        asked: images that were sent, repeated ones included, or are about to be.
        answered: images that were answered as they must be.
        requests: that were sent, or tried to be.
        retries: how many of them repeated another one.
        next_send: before which no request goes out, in seconds since 1970.
    """

    asked: int = 0
    answered: int = 0
    requests: int = 0
    retries: int = 0
    next_send: float = 0.0


class QueryLedger:
    """Counts images before they are sent, so that a budget is never passed, and hands out times.

    Processes that give the same file share count, budget and the bound on requests a second. After
    a kill, images that were about to be sent stay counted.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        budget: int | None = None,
        requests_per_second: float | None = None,
    ) -> None:
        """Count in a file, which is made when first written to.

        Args:
            path: of the file; None counts in this process alone.
            budget: images that may be asked in all; None for no bound.
            requests_per_second: None for no bound.
        """
        self.path = path
        self.budget = budget
        self._interval = 1 / requests_per_second if requests_per_second else 0.0
        self._in_memory = Spent()
        self.spent()

    def spent(self) -> Spent:
        """Return what has been asked so far."""
        if self.path is None:
            return self._in_memory
        return _read(self.path)

    def left(self) -> int | None:
        """Return how many images may still be asked, or None if there is no bound."""
        return None if self.budget is None else max(0, self.budget - self.spent().asked)

    def reserve(self, images: int, *, retry: bool = False) -> float:
        """Count a request that is about to be sent, and return in how many seconds it may be.

        Raises:
            QueryBudgetError: the budget does not suffice; nothing is counted.
        """
        with self._changing():
            found = self.spent()
            if self.budget is not None and found.asked + images > self.budget:
                raise QueryBudgetError(
                    f"classifier.endpoint.query_budget: {found.asked:,} of "
                    f"{counted(self.budget, 'image')} are spent, and the next request has "
                    f"{images:,}; raise it to go on."
                )
            now = time.time()
            send = max(now, found.next_send)
            changed = replace(
                found,
                asked=found.asked + images,
                requests=found.requests + 1,
                retries=found.retries + retry,
                next_send=send + self._interval,
            )
            self._write(changed)
        return send - now

    def give_back(self, images: int) -> None:
        """Count images no more that could not be sent."""
        with self._changing():
            found = self.spent()
            self._write(replace(found, asked=found.asked - images))

    def answered(self, images: int) -> None:
        """Count images that were answered."""
        with self._changing():
            found = self.spent()
            self._write(replace(found, answered=found.answered + images))

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with _threads:
            if self.path is None:
                yield
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = self.path.with_name(f".{self.path.name}.lock")
            with FileLock(lock, poll_interval=_POLL_SECONDS):
                yield

    def _write(self, spent: Spent) -> None:
        if self.path is None:
            self._in_memory = spent
        else:
            write_json(self.path, asdict(spent))


def _read(path: Path) -> Spent:
    if not path.exists():
        return Spent()
    found = read_json(path)
    names = [field.name for field in fields(Spent)]
    fits = isinstance(found, dict) and found.keys() == set(names)
    if not fits or not all(type(v) in (int, float) and 0 <= v <= _LARGEST for v in found.values()):
        raise InputError(
            f"{path} is no count of queries; it must hold {', '.join(names)}. Give another file."
        )
    return Spent(**found)
