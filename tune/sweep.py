"""A sweep from start to end: trials, final trainings, leaderboard, bundle."""

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Ray Tune's own loggers and tables; the sweep directory and our progress take their place.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import ray
from ray import tune as ray_tune
from ray.exceptions import RayError
from rich.console import Console

from decrop.config import TrialConfig
from decrop.errors import InputError
from decrop.inputs import check_inputs, load_inputs
from decrop.smoothing.execution import resolve_device
from decrop.synthesis.stage_one import INTERPOLATED
from decrop.trial import certify_undefended
from tune.cluster import Claims, claims, cluster, local_size
from tune.directory import SweepDirectory, TrialRecord, trial_name
from tune.export import export_trial
from tune.job import INPUT_GROUPS, SweepJob, run_recorded, shares_inputs
from tune.leaderboard import (
    Leaderboard,
    build_leaderboard,
    chosen,
    ranking,
    read_leaderboard,
    write_leaderboard,
)
from tune.past import ended_trials
from tune.progress import ProgressCallback, SweepProgress
from tune.pruning import EVALUATION, build_scheduler
from tune.search import SweepSearcher
from tune.space import reference_config, row_trials, total_trials, trial_config_for
from tune.sweep_file import SweepConfig
from tune.tracking import Tracker, TrackingThread, check_tracking_uri
from tune.trial import METRIC, SweepTrial


class SweepInterruptedError(Exception):
    """The sweep was stopped before all its trials had ended; it can be resumed."""

    def __init__(self, directory: SweepDirectory) -> None:
        super().__init__(f"{directory.path} is not finished")
        self.directory = directory


class SweepFailedError(Exception):
    """No trial of the sweep finished."""


@dataclass(frozen=True)
class SweepOutcome:
    """What a finished sweep leaves behind.

    Attributes:
        directory: with everything.
        leaderboard: of the certified few.
        experiment_id: in MLflow.
        trials: that the sweep ran.
        stage1_computed: how often stage-1 samples were made rather than shared.
        warning: what MLflow does not show yet, if anything.
    """

    directory: SweepDirectory
    leaderboard: Leaderboard
    experiment_id: str | None
    trials: int
    stage1_computed: int
    warning: str | None


def check_sweep(sweep: SweepConfig) -> None:
    """Check data, classifier and claims of a sweep, also at the ends of what it varies.

    Raises:
        InputError: something cannot be used; nothing has been started.
    """
    check_inputs(reference_config(sweep))
    for path, domain in sweep.space.items():
        if path.split(".")[0] in INPUT_GROUPS:
            for value in domain.values_to_check():
                check_inputs(trial_config_for(sweep, {path: value}))
    checked = [reference_config(sweep)]
    for trial in row_trials(sweep):
        config = trial_config_for(sweep, trial.parameters)
        if not any(_same_inputs(config, other) for other in checked):
            check_inputs(config)
            checked.append(config)


def _same_inputs(first: TrialConfig, second: TrialConfig) -> bool:
    return all(getattr(first, group) == getattr(second, group) for group in INPUT_GROUPS)


def start_sweep(
    sweep: SweepConfig,
    parent: Path,
    *,
    console: Console,
    address: str | None = None,
    tracking_uri: str | None = None,
) -> SweepOutcome:
    """Run a sweep in a new folder under `parent`.

    Raises:
        InputError: something cannot be used; no folder has been made.
        SweepInterruptedError: stopped by Ctrl-C.
        SweepFailedError: no trial finished.
    """
    check_sweep(sweep)
    if tracking_uri is not None:
        check_tracking_uri(tracking_uri)
    if address is None:
        claims(sweep.resources, local_size())
    with cluster(address) as size:
        claimed = claims(sweep.resources, size)
        directory = SweepDirectory.create(parent, sweep.name, sweep.model_dump(mode="json"))
        console.print(f"sweep directory: {directory.path}", soft_wrap=True, highlight=False)
        return _run(sweep, directory, claimed, console, tracking_uri)


def resume_sweep(
    directory: SweepDirectory,
    *,
    console: Console,
    address: str | None = None,
    tracking_uri: str | None = None,
) -> SweepOutcome:
    """Go on with a sweep: ended trials stay, unfinished ones go on, the missing ones are run.

    Raises:
        InputError: the directory or its data cannot be used.
        SweepInterruptedError: stopped by Ctrl-C.
        SweepFailedError: no trial finished.
    """
    sweep = SweepConfig.model_validate(directory.read_record().sweep)
    check_sweep(sweep)
    with cluster(address) as size:
        claimed = claims(sweep.resources, size)
        return _run(sweep, directory, claimed, console, tracking_uri)


def _run(
    sweep: SweepConfig,
    directory: SweepDirectory,
    claimed: Claims,
    console: Console,
    tracking_uri: str | None,
) -> SweepOutcome:
    tracker = Tracker(directory, tracking_uri)
    with _resumable(directory), _tracked(tracker) as thread:
        reference = reference_config(sweep)
        job = SweepJob(directory.path.absolute(), sweep, claimed, None)
        if shares_inputs(sweep):
            with console.status("loading data and classifier"):
                inputs = load_inputs(
                    reference, job.cache, resolve_device(reference.execution.device)
                )
            job = SweepJob(job.path, sweep, claimed, inputs)
            job.store_classifier(inputs)
        _search(job, console)
        numbers = chosen(ranking(directory), sweep.leaderboard.top)
        if not numbers:
            raise SweepFailedError(_common_failure(directory))
        _certify_finals(job, numbers, console)
        earlier = read_leaderboard(directory)
        leaderboard = build_leaderboard(directory, reference.certification.radii)
        if earlier is not None and earlier.best.number != leaderboard.best.number:
            # A final training failed then and succeeded now.
            shutil.rmtree(directory.bundle_path, ignore_errors=True)
        write_leaderboard(directory, leaderboard)
        if not directory.bundle_path.exists():
            assert leaderboard.best.number is not None
            export_trial(directory, leaderboard.best.number, directory.bundle_path)
    return SweepOutcome(
        directory=directory,
        leaderboard=leaderboard,
        experiment_id=None if thread.last_error is not None else tracker.experiment_id(),
        trials=len(directory.trial_numbers()),
        stage1_computed=job.cache.computations(INTERPOLATED),
        warning=thread.closing_warning(),
    )


@contextmanager
def _resumable(directory: SweepDirectory) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise SweepInterruptedError(directory) from None


@contextmanager
def _tracked(tracker: Tracker) -> Iterator[TrackingThread]:
    thread = TrackingThread(tracker)
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()


def _search(job: SweepJob, console: Console) -> None:
    sweep, directory = job.sweep, job.directory
    past, unfinished = ended_trials(directory)
    total = total_trials(sweep)
    missing = total - len(past)
    if missing <= 0:
        return
    evaluations = reference_config(sweep).training.evaluations
    disposable = tempfile.mkdtemp(prefix="decrop-ray-tune-")
    names = {
        number: trial_name(number, trial.row, trial.parameters)
        for number, trial in enumerate(row_trials(sweep))
    }
    progress = SweepProgress(total, evaluations, console, done_before=len(past), names=names)
    claim = job.claims.trial
    trainable = ray_tune.with_resources(
        ray_tune.with_parameters(SweepTrial, job=job), {"cpu": claim.cpu, "gpu": claim.gpu}
    )
    tuner = ray_tune.Tuner(
        trainable,
        tune_config=ray_tune.TuneConfig(
            search_alg=SweepSearcher(
                sweep, metric=METRIC, past=past, unfinished=unfinished, time_attr=EVALUATION
            ),
            scheduler=build_scheduler(
                sweep.pruning, metric=METRIC, evaluations=evaluations, past=past
            ),
            num_samples=missing,
            max_concurrent_trials=job.claims.max_concurrent,
            reuse_actors=True,
        ),
        run_config=ray_tune.RunConfig(
            name=sweep.name,
            storage_path=disposable,
            verbose=0,
            # Trials write checkpoints of their own, where a resumed sweep finds them.
            checkpoint_config=ray_tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[ProgressCallback(progress, directory)],
        ),
    )
    try:
        with progress, _own_interrupt_handler():
            tuner.fit()
    finally:
        shutil.rmtree(disposable, ignore_errors=True)
    past, _ = ended_trials(directory)
    if len(past) < total:
        raise SweepInterruptedError(directory)


@contextmanager
def _own_interrupt_handler() -> Iterator[None]:
    """Put back what handles Ctrl-C: Ray Tune leaves its own handler, which only stops a search."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def _certify_finals(job: SweepJob, numbers: list[int], console: Console) -> None:
    """Train the chosen trials on the whole limited data and certify them on the test split."""
    directory, claim = job.directory, job.claims.trial
    options = {"num_cpus": claim.cpu, "num_gpus": claim.gpu}
    shared = ray.put(job)
    running = {
        _final.options(**options).remote(shared, number): _recorded(directory, number).name
        for number in numbers
        if not directory.final(number).result_path.exists()
    }
    if not directory.undefended.result_path.exists():
        config = reference_config(job.sweep)
        running[_undefended.options(**options).remote(shared, config)] = "no denoiser"
    total = len(running)
    console.print(
        f"training {len(numbers)} trials on the whole limited data, and certifying test images",
        highlight=False,
    )
    while running:
        ready, _ = ray.wait(list(running), num_returns=1)
        name = running.pop(ready[0])
        try:
            ray.get(ready[0])
        except RayError as error:
            # The traceback is in the trial's folder; the others are still worth certifying.
            console.print(f"{name} failed: {_last_line(str(error))}", highlight=False)
        else:
            console.print(f"{name} certified ({total - len(running)} of {total})", highlight=False)
    if not directory.undefended.result_path.exists():
        raise SweepFailedError("the classifier without a denoiser could not be certified")
    if not any(directory.final(number).result_path.exists() for number in numbers):
        raise SweepFailedError("none of the chosen trials could be trained on all limited data")


def _recorded(directory: SweepDirectory, number: int) -> TrialRecord:
    record = directory.trial(number).read_record()
    if record is None:
        raise InputError(f"{directory.trial(number).path} has no trial.json.")
    return record


@ray.remote
def _final(job: SweepJob, number: int) -> None:
    record = _recorded(job.directory, number)
    for _ in run_recorded(job, record, job.directory.final(number), "test"):
        pass


@ray.remote
def _undefended(job: SweepJob, config: TrialConfig) -> None:
    certify_undefended(
        config,
        job.inputs_for(config),
        job.directory.undefended,
        make_sampler=job.make_sampler(config),
    )


def _common_failure(directory: SweepDirectory) -> str:
    errors = []
    for number in directory.trial_numbers():
        state = directory.trial(number).read_state()
        if state is not None and state.error:
            errors.append(_last_line(state.error))
    if not errors:
        return "no trial finished"
    common = max(set(errors), key=errors.count)
    return f"no trial finished; {errors.count(common)} of {len(errors)} failed with: {common}"


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1]
