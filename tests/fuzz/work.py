"""Tries cases in a process of its own, whose time and memory are measured."""

import multiprocessing
import re
import resource
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import pyarrow as pa
import torch

from decrop.errors import InputError, RunError
from tests.fuzz.kinds import KINDS, WAITS, encoded_secrets

_MOST_SECONDS, _MOST_BYTES = 1.0, 1_000_000_000
# A child that says nothing for so long is ended.
_HANGS_SECONDS = 60.0
# Beyond what is mapped already, of address space: a mistake must not take the machine down.
_ROOM = 4 << 30
_LONGEST_LINE = 1_000


@dataclass
class Outcome:
    """What became of a case."""

    kind: str
    number: int
    mutations: list[str]
    refusal: str | None = None
    failure: str | None = None
    seconds: float = 0.0
    peak: int = 0


def outcomes(kind: str, seed: int, numbers: list[int]) -> Iterator[Outcome]:
    """Yield the outcomes of cases, tried in a process that is begun anew where it ends."""
    context = multiprocessing.get_context("spawn")
    found = 0
    while found < len(numbers):
        ours, theirs = context.Pipe()
        child = context.Process(target=_work, args=(kind, seed, numbers[found:], theirs))
        child.start()
        theirs.close()
        try:
            while found < len(numbers):
                if not ours.poll(_HANGS_SECONDS):
                    raise EOFError
                yield ours.recv()
                found += 1
        except EOFError:
            hanging = child.is_alive()
            failure = "hangs" if hanging else f"the process ended with {child.exitcode}"
            yield Outcome(kind, numbers[found], [], failure=failure)
            found += 1
        child.kill()
        child.join()


def _work(kind: str, seed: int, numbers: list[int], parent: Connection) -> None:
    torch.set_num_threads(1)
    # What is loaded with the first case is not counted, and unchanged all of it must be accepted.
    for _ in range(2):
        unchanged = _outcome(kind, seed, -1, changes=0)
        assert unchanged.failure is None and unchanged.refusal is None, unchanged
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + _ROOM, mapped + _ROOM))
    for number in numbers:
        changes = 1 + Random(f"{seed} {number}").choice([0, 0, 1, 2])
        outcome = _outcome(kind, seed, number, changes=changes)
        if outcome.failure is None and outcome.seconds > _MOST_SECONDS:
            # The machine may have been busy.
            again = [_outcome(kind, seed, number, changes=changes) for _ in range(3)]
            outcome = min([outcome, *again], key=lambda outcome: outcome.seconds)
            if outcome.seconds > _MOST_SECONDS:
                outcome.failure = f"took {outcome.seconds:.2f} s ({outcome.refusal or 'accepted'})"
        if outcome.failure is None and outcome.peak > _MOST_BYTES:
            outcome.failure = f"took {outcome.peak:,} bytes"
        parent.send(outcome)


def _outcome(kind: str, seed: int, number: int, *, changes: int) -> Outcome:
    folder = Path(tempfile.mkdtemp())
    try:
        case = KINDS[kind](Random(f"{kind} {seed} {number}"), folder, changes=changes)
        outcome = Outcome(kind, number, case.mutations)
        # What making the case took is given back; the count of the most memory begins anew.
        pa.default_memory_pool().release_unused()
        Path("/proc/self/clear_refs").write_text("5")
        # Of what never waits, time of the processor: others may keep it busy.
        clock = time.monotonic if kind == WAITS else time.process_time
        began = clock()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", ResourceWarning)
            try:
                case.run()
            except (InputError, RunError) as error:
                outcome.refusal = str(error)
            except BaseException as error:
                trace = "".join(traceback.format_exception(error)[-6:])
                outcome.failure = f"{type(error).__name__}: {str(error)[:300]}\n{trace[-2500:]}"
        outcome.seconds = clock() - began
        status = Path("/proc/self/status").read_text()
        outcome.peak = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for warning in warned:
        if not str(warning.message).startswith("Careful: "):
            outcome.failure = outcome.failure or f"warns: {warning.message}"
    line = outcome.refusal
    if line is not None:
        if not line.isprintable() or len(line) > _LONGEST_LINE:
            outcome.failure = f"is no line: {line!r}"
        shown = [piece for piece in encoded_secrets(case.secret or "    ") if piece in line]
        if case.secret is not None and shown:
            outcome.failure = f"shows {shown[0]} of the token: {line}"
    return outcome
