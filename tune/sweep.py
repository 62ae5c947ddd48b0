"""A sweep from start to end: trials, final trainings, leaderboard, bundle."""

import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

# Ray Tune's own loggers and tables; the sweep directory and our progress take their place.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# A Ctrl-C is the sweep's own to handle.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
# Read by PyTorch's OpenMP when it is loaded: driver and trials have more threads than there are
# cores, and one that spins while it waits for another takes the core that the other one needs.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Trials that Ray Tune starts at a time, one unless told; how many there may be is the searcher's.
os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(2**16))

from ray import tune as ray_tune
from rich.console import Console

from decrop.black_box import QueryLedger
from decrop.cli.output import progress_bars, say
from decrop.errors import InputError
from decrop.files import LostFolderError, fence_of
from decrop.smoothing.execution import resolve_device
from decrop.synthesis.synthetic_samples import INTERPOLATED
from decrop.trial.prepare import load_inputs
from decrop.wording import counted
from tune.callbacks import RETRIES, SearchStopper, SweepCallback, SweepProgress
from tune.check import check_sweep
from tune.cluster import Claims, ClusterSize, claims, cluster, cluster_size, local_size
from tune.directory import SweepDirectory, trial_name
from tune.driver import sole_driver
from tune.earlier import as_finished, check_same_inputs, gather, read_learnt, write_learnt
from tune.export import export_trial
from tune.final_runs import FinalTraining, certify_finals, missing_finals
from tune.finished_trials import FinishedTrial, finished_trials, finite, other_values
from tune.mlflow.client import check_tracking_uri
from tune.mlflow.tracker import Tracker, TrackingThread
from tune.plan import finals_queries, sweep_queries
from tune.results.board import Leaderboard
from tune.results.leaderboard import build_leaderboard, read_leaderboard, write_leaderboard
from tune.results.ranking import chosen, ranking
from tune.scheduler import EVALUATION, build_scheduler
from tune.searcher import SweepSearcher
from tune.space import (
    extended,
    kind_of,
    reference_config,
    reference_words,
    row_trials,
    sweep_kind,
    total_trials,
    with_query_budget,
)
from tune.stopping import Reason, SweepStop, common_cause, deadline, ends_sweep
from tune.sweep_file import SweepConfig
from tune.trust import resume_command
from tune.worker import OBJECTIVE, SweepJob, SweepTrial, shares_inputs

# It tells of a trial that failed by a traceback, which is in the trial's folder.
logging.getLogger("ray.tune.execution.tune_controller").setLevel(logging.CRITICAL)

# Between looks at how large the cluster is.
_LOOK_SECONDS = 5.0


class SweepStoppedError(Exception):
    """The sweep was stopped before all its work was done; it can be resumed.

    Attributes:
        cause: what so many trials failed with that the sweep stopped, or what found no room on a
            disk, if it stopped for that reason.
    """

    def __init__(self, directory: SweepDirectory, reason: Reason, cause: str | None = None) -> None:
        super().__init__(f"{directory.path} is not finished")
        self.directory = directory
        self.reason: Reason = reason
        self.cause = cause


class SweepFailedError(Exception):
    """No trial of the sweep finished."""


@dataclass(frozen=True)
class SweepOutcome:
    """What a finished sweep leaves behind.

    Attributes:
        stage1_computed: how often stage-1 samples were made rather than shared.
        warning: what MLflow does not show yet, if anything.
    """

    directory: SweepDirectory
    leaderboard: Leaderboard
    experiment_id: str | None
    trials: int
    stage1_computed: int
    warning: str | None


@dataclass(frozen=True)
class RunOptions:
    """Where and how long a sweep runs, and what it may do.

    Attributes:
        address: of a running cluster (`auto` or HOST:PORT); None starts one on this machine.
        tracking_uri: of an MLflow server, instead of the store in the directory.
        max_hours: until it stops, counted from now.
        trust_code: whether what the directory names for its classifier may be imported, and its
            endpoint be asked.
        learn_from: directories of earlier sweeps, for a new one.
    """

    console: Console
    address: str | None = None
    tracking_uri: str | None = None
    max_hours: float | None = None
    trust_code: bool = False
    learn_from: tuple[Path, ...] = ()

    def going_on(self, directory: SweepDirectory) -> str:
        """Say how to go on with a sweep where these ran it."""
        return f"go on with: {resume_command(directory, self.address, self.tracking_uri)}"


def start_sweep(sweep: SweepConfig, parent: Path, options: RunOptions) -> SweepOutcome:
    """Run a sweep in a new folder under `parent`, with the code that its file names.

    Raises:
        InputError: something cannot be used; no folder has been made.
        SweepStoppedError: by Ctrl-C, after `max_hours`, for too many failures in a row, or for a
            full disk.
        SweepFailedError: no trial finished.
    """
    ends = deadline(options.max_hours)
    check_sweep(sweep)
    learnt = gather(sweep, options.learn_from, lambda line: say(line, options.console))
    if options.tracking_uri is not None:
        check_tracking_uri(options.tracking_uri)
    if options.address is None:
        _claims(sweep, local_size())
    with cluster(options.address) as size:
        claimed = _claims(sweep, size)
        if claimed.trial.gpu > 0:
            sweep = _on_gpus(sweep, claimed.trial.gpu)
        directory = SweepDirectory.create(parent, sweep)
        write_learnt(directory, learnt)
        _say_size(size, claimed, options)
        _say_queries(sweep, options.console)
        say(f"sweep directory: {directory.path}", options.console)
        with sole_driver(directory) as fence:
            stop = SweepStop(directory, options.console, ends, options.going_on(directory))
            job = _job(sweep, directory, claimed, fence)
            return _run(directory, job, replace(options, trust_code=True), stop)


def resume_sweep(
    directory: SweepDirectory,
    options: RunOptions,
    *,
    trials: int | None = None,
    query_budget: int | None = None,
) -> SweepOutcome:
    """Go on with a sweep: ended trials stay, unfinished ones go on, the missing ones are run.

    Args:
        trials: in total, recorded in the directory; as many as before if not given.
        query_budget: images that the endpoint may be asked about in all, recorded in the directory;
            as before if not given.

    Raises:
        SweepStoppedError: as `start_sweep`.
        SweepFailedError: no trial finished.
    """
    ends = deadline(options.max_hours)
    with sole_driver(directory) as fence:
        record = directory.read_record()
        sweep = record.sweep
        if trials is not None:
            sweep = extended(sweep, trials, existing=len(directory.trial_numbers()))
        if query_budget is not None:
            sweep = with_query_budget(sweep, query_budget)
        check_sweep(sweep, refused=None if options.trust_code else "strangers")
        with cluster(options.address) as size:
            claimed = _claims(sweep, size)
            _say_size(size, claimed, options)
            _say_queries(sweep, options.console)
            if trials is not None:
                fence_of(directory.record_path)
                # They say that the sweep has ended.
                directory.leaderboard_markdown_path.unlink(missing_ok=True)
                directory.leaderboard_json_path.unlink(missing_ok=True)
                directory.page_path.unlink(missing_ok=True)
            if sweep != record.sweep:
                directory.write_record(record.model_copy(update={"sweep": sweep}))
            stop = SweepStop(directory, options.console, ends, options.going_on(directory))
            job = _job(sweep, directory, claimed, fence)
            return _run(directory, job, options, stop)


def _run(
    directory: SweepDirectory, job: SweepJob, options: RunOptions, stop: SweepStop
) -> SweepOutcome:
    sweep, console = job.sweep, options.console
    tracker = Tracker(directory, options.tracking_uri)
    with _resumable(directory, stop), _tracked(tracker) as thread:
        reference = reference_config(sweep)
        job = _with_inputs(job, console)
        search_trials(job, console, stop)
        numbers = chosen(list(ranking(directory)), sweep.leaderboard.top)
        if not numbers:
            raise SweepFailedError(_common_failure(directory))
        say(f"{_what_follows(sweep)}: {counted(len(numbers), 'trial')}", console)
        _certify(job, missing_finals(job.directory, numbers), console, stop)
        undefended = directory.undefended.result_path
        if kind_of(reference).certifies_undefended and not undefended.exists():
            raise SweepFailedError("the classifier without a denoiser could not be certified")
        if not any(directory.final(number).result_path.exists() for number in numbers):
            raise SweepFailedError("none of the chosen trials could be certified on test images")
        board = build_leaderboard(
            directory, reference.certification.radii, top=sweep.leaderboard.top
        )
        _write_outcome(directory, board, trust_code=options.trust_code)
    return SweepOutcome(
        directory=directory,
        leaderboard=board,
        experiment_id=None if thread.last_error is not None else tracker.experiment_id(),
        trials=len(directory.trial_numbers()),
        stage1_computed=job.cache.computations(INTERPOLATED),
        warning=thread.closing_warning(),
    )


def _write_outcome(directory: SweepDirectory, board: Leaderboard, *, trust_code: bool) -> None:
    """Write the leaderboard, its page, and the bundle of the best unless it is there."""
    assert board.best.number is not None
    fence_of(directory.bundle_path)
    if _best_before(directory) != board.best.number:
        # A final training failed then and succeeded now, or there are more trials now.
        shutil.rmtree(directory.bundle_path, ignore_errors=True)
    write_leaderboard(directory, board)
    if not directory.bundle_path.exists():
        export_trial(directory, board.best.number, directory.bundle_path, trust_code=trust_code)
    # Imported where it is used, so that a sweep starts no later for it.
    from tune.results.html.page import write_page

    write_page(directory, directory.page_path, trust_code=trust_code)


def _best_before(directory: SweepDirectory) -> int | None:
    """Return which trial the bundle is of, where a leaderboard that can be read tells it."""
    with suppress(InputError):
        board = read_leaderboard(directory)
        if board is not None and board.entries:
            return board.best.number
    return None


def certify_trials(
    directory: SweepDirectory, numbers: Sequence[int], options: RunOptions, *, seeds: int = 1
) -> str | None:
    """Train trials of a finished sweep on the whole limited data and certify them, where missing.

    Where there are several `seeds`, each is trained from seeds 0 to `seeds` - 1 too.

    Returns:
        what MLflow does not show yet, if anything.

    Raises:
        SweepStoppedError: by Ctrl-C or for a full disk; the same call goes on.
    """
    console = options.console
    # Absolute, for workers run in folders of their own.
    missing = missing_finals(SweepDirectory(directory.path.absolute()), numbers, seeds)
    if not missing:
        return None
    sweep = directory.read_record().sweep
    check_sweep(sweep, refused=None if options.trust_code else "strangers")
    queries = finals_queries([training.record.config for training in missing])
    if queries is not None:
        queries.check(spent=QueryLedger(directory.queries_path).spent().asked)
        say(queries.sentence(), console)
    say(f"{_what_follows(sweep)}: {', '.join(training.name for training in missing)}", console)
    with sole_driver(directory) as fence, cluster(options.address) as size:
        job = _job(sweep, directory, _claims(sweep, size), fence)
        tracker = Tracker(directory, options.tracking_uri)
        stop = SweepStop(directory, console)
        with _resumable(directory, stop), _tracked(tracker) as thread:
            _certify(_with_inputs(job, console), missing, console, stop)
    return thread.closing_warning()


def _say_size(size: ClusterSize, claimed: Claims, options: RunOptions) -> None:
    if options.address is not None:
        say(
            f"a cluster of {size.processors}: up to "
            f"{counted(claimed.trials_at_once(size), 'trial')} at once, on "
            f"{'GPUs' if claimed.trial.gpu > 0 else 'CPUs'}",
            options.console,
        )


def _on_gpus(sweep: SweepConfig, gpu: float) -> SweepConfig:
    """Let a sweep claim GPUs when it is resumed too: on CPUs its functions would be others."""
    trial = sweep.resources.trial.model_copy(update={"gpu": gpu})
    resources = sweep.resources.model_copy(update={"trial": trial})
    return sweep.model_copy(update={"resources": resources})


def _say_queries(sweep: SweepConfig, console: Console) -> None:
    if (queries := sweep_queries(sweep)) is not None:
        say(queries.sentence(), console)


def _claims(sweep: SweepConfig, size: ClusterSize) -> Claims:
    return claims(sweep.resources, size, reference_config(sweep).execution.device)


def _job(sweep: SweepConfig, directory: SweepDirectory, claimed: Claims, fence: Path) -> SweepJob:
    return SweepJob(directory.path.absolute(), sweep, claimed, None, fence.absolute())


def _with_inputs(job: SweepJob, console: Console) -> SweepJob:
    """Add the inputs that all trials share, if they do."""
    if not shares_inputs(job.sweep):
        return job
    reference = reference_config(job.sweep)
    # What trials compute on, if this machine has it too.
    device = resolve_device("cpu" if job.claims.trial.gpu == 0 else reference.execution.device)
    with progress_bars("loading data and classifier") as bars:
        inputs = load_inputs(
            reference,
            job.cache,
            device,
            ledger=job.directory.queries_path,
            hooks=bars.hooks("certifying"),
        )
    job = replace(job, inputs=inputs)
    job.check_inputs_kept(reference, inputs.hashes_of(reference, "test"))
    check_same_inputs(read_learnt(job.directory), inputs.hashes_of(reference, "held_out"))
    job.store_classifier(inputs)
    return job


@contextmanager
def _resumable(directory: SweepDirectory, stop: SweepStop) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise SweepStoppedError(directory, "interrupted") from None
    except Exception as error:
        if (found := ends_sweep(error)) is None:
            raise
        raise _stopped(directory, *found) from None
    finally:
        stop.clear()


@contextmanager
def _tracked(tracker: Tracker) -> Iterator[TrackingThread]:
    thread = TrackingThread(tracker)
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()


def _certify(
    job: SweepJob, trainings: Sequence[FinalTraining], console: Console, stop: SweepStop
) -> None:
    with stop.listening():
        certify_finals(job, trainings, console, stop)
    folders = [training.folder for training in trainings]
    if sweep_kind(job.sweep).certifies_undefended:
        folders.append(job.directory.undefended)
    if stop.reason is not None and not all(folder.result_path.exists() for folder in folders):
        raise SweepStoppedError(job.directory, stop.reason)


def _what_follows(sweep: SweepConfig) -> str:
    if not reference_config(sweep).trains_again_for_test:
        return "certifying test images"
    return "training on the whole limited data, and certifying test images"


def search_trials(job: SweepJob, console: Console, stop: SweepStop) -> None:
    """Run the trials of a sweep that have not ended, new ones as Optuna proposes them.

    Raises:
        SweepStoppedError: before all of them have ended.
    """
    sweep, directory = job.sweep, job.directory
    objectives = job.objectives
    past, unfinished = finished_trials(directory)
    learnt = as_finished(read_learnt(directory))
    total = total_trials(sweep)
    missing = total - len(past)
    if missing <= 0:
        return
    reference = reference_config(sweep)
    evaluations = reference.training.evaluations
    disposable = tempfile.mkdtemp(prefix="decrop-ray-tune-")
    names = {
        number: trial_name(number, trial.row, trial.parameters)
        for number, trial in enumerate(row_trials(sweep))
    }
    progress = SweepProgress(
        total,
        evaluations,
        console,
        done_before=len(past),
        names=names,
        reference=reference_words(reference),
        objective=job.objectives[0],
        best_before=_best(past),
    )
    callback = SweepCallback(progress, directory, stop)
    claim = job.claims.trial
    trainable = ray_tune.with_resources(
        ray_tune.with_parameters(SweepTrial, job=job), {"cpu": claim.cpu, "gpu": claim.gpu}
    )
    tuner = ray_tune.Tuner(
        trainable,
        tune_config=ray_tune.TuneConfig(
            search_alg=SweepSearcher(
                sweep,
                metric=OBJECTIVE,
                past=past,
                unfinished=unfinished,
                time_attr=EVALUATION,
                others=lambda number: other_values(directory.trial(number), objectives),
                learnt=learnt,
                at_once=_TrialsAtOnce(job.claims),
            ),
            scheduler=build_scheduler(
                sweep.pruning,
                metric=OBJECTIVE,
                evaluations=evaluations,
                past=[*learnt, *past],
                lag=sweep.lag,
            ),
            num_samples=missing,
            reuse_actors=True,
        ),
        run_config=ray_tune.RunConfig(
            name=sweep.name,
            storage_path=disposable,
            verbose=0,
            # Trials write checkpoints of their own, where a resumed sweep finds them.
            checkpoint_config=ray_tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=ray_tune.FailureConfig(max_failures=RETRIES),
            callbacks=[callback],
            stop=SearchStopper(stop, callback),
        ),
    )
    try:
        with progress, stop.listening():
            tuner.fit()
    finally:
        shutil.rmtree(disposable, ignore_errors=True)
    past, _ = finished_trials(directory)
    if stop.reason is not None or len(past) < total:
        raise _stopped(directory, stop.reason or "interrupted", callback.cause)


def _best(past: Sequence[FinishedTrial]) -> tuple[int, float] | None:
    """Return number and score of the best trial that was completed."""
    scores = [(finite(t.value), t.number) for t in past if t.state == "complete"]
    known = [(score, number) for score, number in scores if score is not None]
    # The first of equal ones, as the progress has it.
    score, number = max(known, key=lambda pair: (pair[0], -pair[1]), default=(0.0, None))
    return None if number is None else (number, score)


class _TrialsAtOnce:
    """How many trials the cluster has room for, which machines that come and go change."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._looked = -math.inf
        self._room = 1

    def __call__(self) -> int:
        """Return the number, at least 1; Ray is asked every few seconds."""
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._room = self._claims.trials_at_once(cluster_size())
            self._looked = time.monotonic()
        return self._room


def _stopped(directory: SweepDirectory, reason: Reason, cause: str | None) -> Exception:
    if reason == "inputs":
        return InputError(cause)
    if reason == "lost":
        return LostFolderError(cause)
    return SweepStoppedError(directory, reason, cause)


def _common_failure(directory: SweepDirectory) -> str:
    states = [directory.trial(number).read_state() for number in directory.trial_numbers()]
    errors = [state.error for state in states if state is not None and state.error]
    if not errors:
        return "no trial finished"
    message, count = common_cause(errors)
    return f"no trial finished; {count} of {len(errors)} failed with: {message}"
