"""What a sweep costs beside its trials: orchestration, and tracking in MLflow on Postgres.

    python -m tests.benchmarks.overhead --json
    python -m tests.benchmarks.overhead --trials 20

Two trials run at a time, through everything that a sweep does for them: Ray Tune, Optuna (TPE),
the sweep directory, the samples of the machine's load, and the thread that tracks the sweep. Only
a trial's body is a stub: `--seconds` of work on one thread and 20 metrics, at two evaluations. All
trials run once without tracking, then once with it; the MLflow server and its Postgres start
between the two, on the same machine.

Work is counted in CPU seconds of the trial's thread. So whatever else computes on the machine makes
trials last longer rather than do less: on two cores each CPU second of Ray, MLflow or Postgres
takes one from the trials.

`tracking_overhead_percent`: the wall time of the search with tracking, from its call until the last
    trial is in MLflow, over that without.
`orchestration_s_per_trial`: (wall time without tracking − trials × seconds / 2) / trials, from the
    moment at which the first trial begins. Before it Ray starts two processes that import PyTorch,
    once in a sweep however many trials it has: `start_seconds`. The up to 5 s that Ray Tune waits
    for them to end, once in a sweep too, count.
`cpu_seconds_per_trial`: with tracking, of this process (Ray Tune, Optuna and the tracking thread),
    of the MLflow server and of Postgres.
`audit`: what `decrop audit` counts afterwards.
"""

import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from unittest.mock import patch

import psutil
import ray
import torch
import typer
from rich.console import Console

import tune.worker
from decrop.cache import ContentCache
from decrop.config import TrialConfig
from decrop.files import write_json
from decrop.smoothing.execution import resolve_device
from decrop.trial.folder import Report, TrialFolder
from decrop.trial.inputs import TrialInputs
from decrop.trial.prepare import load_inputs
from decrop.trial.result import Split, radius_key
from tests.mlflow_server.postgres import Postgres, running_postgres
from tests.mlflow_server.processes import first_line, free_port, running
from tune.cluster import Claim, Claims, cluster
from tune.directory import SweepDirectory
from tune.mlflow.audit import audit_sweep
from tune.mlflow.tracker import Tracker, TrackingThread
from tune.space import reference_config
from tune.stopping import SweepStop
from tune.sweep import search_trials
from tune.sweep_file import SweepConfig
from tune.worker import SweepJob

AT_ONCE = 2
EVALUATIONS = 2
# With the two held-out scores they are 20 metrics.
LOSSES = tuple(f"loss_{index:02d}" for index in range(18))
RADIUS = 0.25
# Of matrices that stay in a core's cache.
MATRIX_SIZE = 96
SECONDS_VARIABLE = "DECROP_OVERHEAD_SECONDS"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Measured:
    """Seconds of one search.

    Attributes:
        wall: from its call to its end, tracking included.
        start: of it, until the first trial begins.
        cpu: of the processes that serve it.
    """

    wall: float
    start: float
    cpu: dict[str, float]


def sweep_of(trials: int) -> SweepConfig:
    """A sweep over four settings, whose inputs load in seconds."""
    return SweepConfig.model_validate(
        {
            "name": "overhead",
            "trial": {
                "dataset": {"name": "digits"},
                "limited": {"fraction": 0.08},
                "classifier": {"source": "small_cnn", "training": {"epochs": 1}},
                "training": {"epochs": EVALUATIONS, "evaluations": EVALUATIONS},
                "certification": {"radii": [RADIUS]},
            },
            "space": {
                "training.loss_weights.cosine": {"uniform": [0, 8]},
                "training.loss_weights.mmd": {"uniform": [0, 8]},
                "training.learning_rate": {"loguniform": [1e-4, 1e-2]},
                "interpolation.count": {"choice": [1, 2, 3]},
            },
            "search": "tpe",
            "trials": trials,
            "pruning": {"enabled": False},
            "resources": {"trial": {"cpu": 1}, "max_helpers": 0, "max_concurrent": AT_ONCE},
        }
    )


def work(seconds: float) -> float:
    """Compute until this thread has used `seconds` of a CPU."""
    matrix = torch.eye(MATRIX_SIZE)
    ends = time.thread_time() + seconds
    while time.thread_time() < ends:
        matrix = matrix @ matrix
    return float(matrix[0, 0])


def stub_trial(
    config: TrialConfig,
    inputs: TrialInputs,
    folder: TrialFolder,
    cache: ContentCache,
    *,
    split: Split,
    **_: Any,
) -> Iterator[Report]:
    """Stand for `decrop.trial.run.run_trial`: the same files and reports of no work."""
    seconds = float(os.environ[SECONDS_VARIABLE])
    history, reports = [], []
    for evaluation in range(1, EVALUATIONS + 1):
        unit = work(seconds / EVALUATIONS)
        loss = unit / evaluation * (1 + abs(math.log(config.training.learning_rate / 1e-3)))
        radius = RADIUS / (1 + loss + abs(config.training.loss_weights.cosine - 4))
        history.append({"epoch": evaluation, **{name: loss + i for i, name in enumerate(LOSSES)}})
        report = Report(
            evaluation=evaluation,
            epoch=evaluation,
            average_certified_radius=radius,
            certified_accuracy={radius_key(RADIUS): radius / RADIUS},
            finished=evaluation == EVALUATIONS,
            area_under_curve=radius,
        )
        reports.append(asdict(report))
        write_json(folder.history_path, history)
        write_json(folder.reports_path, reports)
        if report.finished:
            result = {"split": split, "average_certified_radius": radius}
            write_json(folder.result_path, result)
        yield report


def replace_trials() -> None:
    """Let this worker process run the stub in place of trials."""
    tune.worker.run_trial = stub_trial  # type: ignore[assignment]


@contextmanager
def workers_of_stubs(seconds: float) -> Iterator[None]:
    """Let the workers of every Ray that starts inside the block run stubs of so much work."""
    start = ray.init
    environment = {
        "worker_process_setup_hook": "tests.benchmarks.overhead.replace_trials",
        # An installed decrop leaves the tests out.
        "env_vars": {SECONDS_VARIABLE: str(seconds), "PYTHONPATH": str(ROOT)},
    }

    def init(**options: Any) -> Any:
        return start(**options, runtime_env=environment)

    with patch.object(ray, "init", init):
        yield


def new_job(parent: Path, sweep: SweepConfig) -> SweepJob:
    """Make a sweep directory and what the workers of its sweep need."""
    directory = SweepDirectory.create(parent, sweep)
    claims = Claims(Claim(1, 0), Claim(1, 0), max_helpers=0, max_concurrent=AT_ONCE)
    job = SweepJob(directory.path, sweep, claims, None)
    config = reference_config(sweep)
    inputs = load_inputs(config, job.cache, resolve_device(config.execution.device))
    return SweepJob(directory.path, sweep, claims, inputs)


def measure(job: SweepJob, tracking: str | None, servers: dict[str, int]) -> Measured:
    """Run all trials, tracked on a server if there is one, whose processes' CPU seconds count."""
    directory, console = job.directory, Console(file=StringIO())
    before = {name: cpu_seconds(pid) for name, pid in servers.items()}
    own, clock, began = time.process_time(), time.monotonic(), time.time()
    thread = None if tracking is None else TrackingThread(Tracker(directory, tracking))
    if thread is not None:
        thread.start()
    search_trials(job, console, SweepStop(directory, console))
    if thread is not None:
        thread.stop()
        assert thread.last_error is None, thread.last_error
    wall = time.monotonic() - clock
    records = [directory.trial(number).record_path for number in directory.trial_numbers()]
    return Measured(
        wall=wall,
        start=min(path.stat().st_mtime for path in records) - began,
        cpu={
            "driver": time.process_time() - own,
            **{name: cpu_seconds(pid) - before[name] for name, pid in servers.items()},
        },
    )


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and of all below it, those that have ended included."""
    process = psutil.Process(pid)
    times = [p.cpu_times() for p in (process, *process.children(recursive=True))]
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


@contextmanager
def mlflow_on(postgres: Postgres, folder: Path) -> Iterator[tuple[str, int]]:
    """An MLflow server on a new database: its address and its process."""
    port = free_port()
    with running(folder, port, postgres.create_database("overhead")) as process:
        address = first_line(process)
        assert address, process.communicate()[1]
        yield f"http://127.0.0.1:{port}", process.pid


def main(
    trials: Annotated[int, typer.Option(min=AT_ONCE, help="Trials of each search.")] = 200,
    seconds: Annotated[float, typer.Option(min=0, help="Work of a trial.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
) -> None:
    """Measure and print."""
    sweep = sweep_of(trials)
    with ExitStack() as stack:
        parent = Path(stack.enter_context(TemporaryDirectory()))
        stack.enter_context(workers_of_stubs(seconds))
        stack.enter_context(cluster(None))
        plain = measure(new_job(parent, sweep), None, {})
        postgres = stack.enter_context(running_postgres())
        address, pid = stack.enter_context(mlflow_on(postgres, parent))
        job = new_job(parent, sweep)
        tracked = measure(job, address, {"mlflow": pid, "postgres": postgres.pid})
        audit = audit_sweep(job.directory, address)
    ideal = trials * seconds / AT_ONCE
    document = {
        "trials": trials,
        "seconds": seconds,
        "cores": len(os.sched_getaffinity(0)),
        "wall_seconds": {"plain": plain.wall, "tracked": tracked.wall},
        "start_seconds": {"plain": plain.start, "tracked": tracked.start},
        "tracking_overhead_percent": 100 * (tracked.wall / plain.wall - 1),
        "orchestration_s_per_trial": (plain.wall - plain.start - ideal) / trials,
        "cpu_seconds_per_trial": {name: spent / trials for name, spent in tracked.cpu.items()},
        "audit": audit.counts,
    }
    print(json.dumps(document) if as_json else json.dumps(document, indent=2))
    for problem in audit.problems:
        print(problem, file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
