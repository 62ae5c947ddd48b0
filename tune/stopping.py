"""Reasons to end a sweep before all its trials have, and how drivers tell workers."""

import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Literal

import ray
from rich.console import Console

from decrop.cli.output import say
from decrop.files import LostFolderError, fence_of, is_full_disk, write_text
from decrop.training.folder import ChangedInputsError
from decrop.wording import times
from tune.directory import SweepDirectory

# Why a sweep stops before all its work is done.
Reason = Literal["interrupted", "time", "failures", "disk", "inputs", "lost"]

# Of what is no sweep, but final trainings.
SAME_COMMAND = "the same command goes on"


def last_line(text: str) -> str:
    """Return the last line of a traceback, which names the error."""
    return text.strip().splitlines()[-1]


def ends_sweep(error: BaseException) -> tuple[Reason, str] | None:
    """Return why a sweep must stop for an error that is no trial's own; None for any other.

    Ray hands on the errors of other processes as the cause of its own.
    """
    raised = list(behind(error))
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


def death(said: str, deaths: int) -> str:
    """Return the error of a trial whose process died so many times, below what Ray says of it."""
    line = f"the trial's process died {times(deaths)}: it was killed, or had no memory left"
    return f"{said.strip()}\n{line}" if said.strip() else line


def behind(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors that have led to an error, the last one first."""
    current: BaseException | None = error
    while current is not None:
        handed_on = getattr(current, "cause", None)
        raised = handed_on if isinstance(handed_on, BaseException) else current
        yield raised
        current = raised.__cause__ or raised.__context__


def _kind(line: str) -> str:
    return line.partition(":")[0]


INTERRUPTED = 130
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
# What a worker needs between two looks at the file, with an NFS client that remembers for half a
# minute that there is none, and the longest epoch of the presets.
_GRACE_SECONDS = 90.0
_SECONDS_PER_HOUR = 3600.0
# For ending the processes of a cluster of our own, or leaving one that was there before.
_SHUTDOWN_SECONDS = 5.0
_WATCH_SECONDS = 1.0


def deadline(max_hours: float | None) -> float | None:
    """Return when so many hours from now are over, by the monotonic clock; None for never."""
    return None if max_hours is None else time.monotonic() + max_hours * _SECONDS_PER_HOUR


class SweepStop:
    """A request to stop a sweep, known to its driver and, through a file, to its workers.

    Workers look for the file between epochs, save their state and end. The file is gone before and
    after each run, so that a sweep can be resumed.
    """

    def __init__(
        self,
        directory: SweepDirectory,
        console: Console,
        ends: float | None = None,
        going_on: str = SAME_COMMAND,
    ) -> None:
        """Let a sweep run, until a time of the monotonic clock if there is one.

        `going_on` says how to go on with it.
        """
        self.reason: Reason | None = None
        self._path = directory.stop_path
        self._going_on = going_on
        self._console = console
        self._ends = ends
        self._requested = 0.0
        self._listening = threading.Event()
        self.clear()

    def request(self, reason: Reason) -> None:
        """Ask the workers to stop; the first reason stays."""
        if self.reason is None:
            self.reason = reason
            self._requested = time.monotonic()
            try:
                write_text(self._path, f"{reason}\n")
            except OSError as error:
                # Workers find no room either.
                if not is_full_disk(error):
                    raise

    def due(self) -> bool:
        """Tell whether the sweep is to stop, which it also is when its time is over.

        Raises:
            LostFolderError: another driver has taken it over.
        """
        fence_of(self._path)
        if self._ends is not None and time.monotonic() >= self._ends:
            self.request("time")
        return self.reason is not None

    def overdue(self) -> bool:
        """Tell whether workers have had the time that they need to save their state."""
        return self.due() and time.monotonic() - self._requested > _GRACE_SECONDS

    def clear(self) -> None:
        """Let workers start again, unless they are another driver's by now.

        Raises:
            LostFolderError: they are.
        """
        fence_of(self._path)
        self._path.unlink(missing_ok=True)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the first Ctrl-C in a block for a request, and end the process at the second.

        SIGTERM, by which schedulers of clusters announce the end, is the same.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._interrupt) for number in _INTERRUPTS}
        self._listening.set()
        try:
            yield
        finally:
            self._listening.clear()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.reason == "interrupted":
            self._listening.clear()
            self._end("stopped at once")
        self.request("interrupted")
        # Whatever else has asked for a stop before, the next Ctrl-C is the second.
        self.reason = "interrupted"
        self._say("stopping: trials save their state; press Ctrl-C again to stop at once")
        if number == signal.SIGTERM:
            threading.Thread(target=self._watch_ray, daemon=True).start()

    def _watch_ray(self) -> None:
        """End the process if the signal has ended its Ray too, as one to all of a job does.

        Ray's client would wait a minute for it, and then end the process in words of its own.
        """
        address = ray.get_runtime_context().gcs_address if ray.is_initialized() else None
        while address is not None and self._listening.is_set():
            if not _answers(address):
                self._end("Ray was stopped too; trials go on from what they saved last")
            time.sleep(_WATCH_SECONDS)

    def _end(self, why: str) -> None:
        self._console.show_cursor(True)
        self._say(f"{why}; {self._going_on}")
        # Whatever is on disk is whole. Leaving by an exception would wait for trials and for
        # MLflow. The thread, for this one may be inside of Ray.
        end = threading.Thread(target=ray.shutdown, daemon=True)
        end.start()
        end.join(_SHUTDOWN_SECONDS)
        os._exit(INTERRUPTED)

    def _say(self, line: str) -> None:
        say(line, self._console)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _WATCH_SECONDS).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        pass  # Late, it may still be there.
    return True
