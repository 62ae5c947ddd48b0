"""Sweep directories of many trials: copies of one that was really run, with scores of their own."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from decrop.files import read_json, write_json
from decrop.smoothing.execution import resolve_device
from decrop.trial.prepare import load_inputs
from tests.tune.runs import write_sweep
from tune.cluster import Claim, Claims
from tune.directory import SweepDirectory, TrialRecord
from tune.space import reference_config
from tune.sweep_file import SweepConfig, load_sweep
from tune.worker import SweepJob, run_recorded

# Files of a trial that are its own; the others are links to the template's.
# When trials were written, in seconds since 1970.
_LONG_AGO = 1_000_000_000
_OWN = ("trial.json", "state.json", "reports.json", "result.json", "history.json")


def run_one_trial(folder: Path) -> SweepDirectory:
    """Run trial 0 of a tiny sweep, and its final training, in this process; return where."""
    sweep = load_sweep(str(write_sweep(folder)))
    config = reference_config(sweep)
    directory = SweepDirectory.create(folder, sweep)
    claims = Claims(Claim(1, 0), Claim(1, 0), max_helpers=0, max_concurrent=None)
    job = SweepJob(directory.path, sweep, claims, None)
    inputs = load_inputs(config, job.cache, resolve_device(config.execution.device))
    job = SweepJob(directory.path, sweep, claims, inputs)
    record = TrialRecord(number=0, reference=True, parameters={}, config=config)
    for _ in run_recorded(job, record, directory.trial(0), "held_out"):
        pass
    for _ in run_recorded(job, record, directory.final(0), "test"):
        pass
    return directory


def with_trials(
    template: SweepDirectory, parent: Path, sweep: SweepConfig, count: int
) -> SweepDirectory:
    """Make a sweep directory of as many ended trials, and trial 0's final training.

    What trials differ in are settings, which are drawn, and the last score, which depends on them.
    """
    directory = SweepDirectory.create(parent, sweep)
    for number, parameters in enumerate(_drawn(sweep, count)):
        write_copy(template, directory, number, parameters)
    for source, target in (
        (template.final(0).path, directory.final(0).path),
        (template.final(0).path, directory.undefended.path),
    ):
        _link(source, target, but=())
    return directory


def write_copy(
    template: SweepDirectory, directory: SweepDirectory, number: int, parameters: dict[str, Any]
) -> None:
    """Write one trial that ended as the template's did."""
    source, target = template.trial(0), directory.trial(number)
    _link(source.path, target.path, but=_OWN)
    record = read_json(source.record_path)
    reference = number == 0
    record |= {"number": number, "reference": reference, "parameters": parameters}
    document = json.loads(json.dumps(record))
    for path, value in parameters.items():
        inner = document["config"]
        *groups, name = path.split(".")
        for group in groups:
            inner = inner[group]
        inner[name] = value
    write_json(target.record_path, document)
    score = 0.1 + 0.3 * float(np.random.default_rng(number).random())
    reports = read_json(source.reports_path)
    reports[-1]["average_certified_radius"] = score
    write_json(target.reports_path, reports)
    write_json(
        target.result_path, {**read_json(source.result_path), "average_certified_radius": score}
    )
    for path in (source.history_path, source.state_path):
        write_json(target.path / path.name, read_json(path))
    for path in (target.path / name for name in _OWN):
        os.utime(path, (_LONG_AGO, _LONG_AGO))


def _drawn(sweep: SweepConfig, count: int) -> Iterator[dict[str, Any]]:
    from tune.study import propose

    yield {}
    drawn = sweep.model_copy(update={"search": "random"})
    for number in range(1, count):
        yield propose(drawn, number, [], {})


def _link(source: Path, target: Path, *, but: tuple[str, ...]) -> None:
    for path in source.rglob("*"):
        if path.is_file() and path.name not in but and path.name != "checkpoint.pt":
            linked = target / path.relative_to(source)
            linked.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, linked)
