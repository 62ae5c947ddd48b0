"""The record of a trial's machine: its load while the trial runs, and which code runs there."""

import math
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

import decrop
from decrop.files import write_json
from tune.directory import CodeRecord, SweepTrialFolder

_INTERVAL = 5.0
# Beyond it every other sample is dropped, and they are taken half as often.
_MOST_SAMPLES = 240
_GIT_SECONDS = 10
_MEGABYTE = 1e6

Sample = dict[str, float]


@cache
def code_record() -> CodeRecord:
    """Tell which code runs here, and on which host."""
    try:
        release = version("decrop")
    except PackageNotFoundError:
        release = "unknown"
    return CodeRecord(version=release, commit=_commit(), host=socket.gethostname())


@contextmanager
def monitored(folder: SweepTrialFolder, *, interval: float = _INTERVAL) -> Iterator[None]:
    """Write the machine's load to `system.json` every `interval` seconds inside the block.

    Samples that are there already are kept. Whatever goes wrong with it, the block is not touched.
    """
    stop = threading.Event()
    thread = threading.Thread(
        target=_watch, args=(folder, stop, interval), name="system-metrics", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=interval)


def _watch(folder: SweepTrialFolder, stop: threading.Event, interval: float) -> None:
    with suppress(Exception):
        samples: list[Sample] = list(folder.read_system())
        started = time.monotonic() - (samples[-1]["seconds"] if samples else 0)
        _sample()  # The first reading of a CPU's load has nothing to compare with.
        ended = False
        while not ended:
            ended = stop.wait(interval)
            seconds = math.floor(time.monotonic() - started)
            if not samples or seconds > samples[-1]["seconds"]:
                samples.append({"seconds": seconds, **_sample()})
            if len(samples) > _MOST_SAMPLES:
                samples, interval = samples[::2], 2 * interval
            write_json(folder.system_path, samples)


def _sample() -> Sample:
    memory = psutil.virtual_memory()
    used, own = memory.used / _MEGABYTE, psutil.Process().memory_info().rss / _MEGABYTE
    sample: Sample = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": round(used, 1),
        "system_memory_usage_percentage": memory.percent,
        "process_memory_usage_megabytes": round(own, 1),
    }
    # A process that does not compute on a GPU must not take memory there by asking.
    if torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        sample["gpu_0_memory_usage_megabytes"] = round((total - free) / _MEGABYTE, 1)
        sample["gpu_0_memory_usage_percentage"] = round(100 * (1 - free / total), 2)
        with suppress(Exception):  # Some drivers do not tell, such as those of MIG slices.
            sample["gpu_0_utilization_percentage"] = torch.cuda.utilization()
    return sample


def _commit() -> str | None:
    """Return the commit of the checkout that this code runs from, None if it is installed."""
    source = Path(decrop.__file__)
    try:
        for arguments in (["ls-files", "--error-unmatch", source.name], ["rev-parse", "HEAD"]):
            answer = subprocess.run(
                ["git", "-C", str(source.parent), *arguments],
                capture_output=True,
                text=True,
                timeout=_GIT_SECONDS,
                check=True,
            ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.strip()
