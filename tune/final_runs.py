"""Final trainings: chosen trials on the whole limited data, certified on the test split."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError
from rich.console import Console

from decrop.cli.output import say
from decrop.config import TrialConfig
from decrop.errors import InputError
from decrop.files import fenced
from decrop.training.hooks import TrialStoppedError
from decrop.trial.run import certify_undefended
from tune.callbacks import RETRIES
from tune.cluster import Claim
from tune.directory import SweepDirectory, SweepTrialFolder, TrialRecord
from tune.sample_counts import SampleCounts
from tune.space import kind_of, reference_config
from tune.stopping import SweepStop, behind, death, ends_sweep, last_line
from tune.worker import SweepJob, crowded_out, end_trial, run_recorded, use_claimed, with_gpu

# Between looks at whether the sweep is to stop.
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class FinalTraining:
    """A training to be done: what people call it, its record and its folder."""

    name: str
    record: TrialRecord
    folder: SweepTrialFolder


def missing_finals(
    directory: SweepDirectory, numbers: Sequence[int], seeds: int = 1
) -> list[FinalTraining]:
    """Return the final trainings of trials that have no result yet.

    Each is from the trial's own seed and, where there are several, from seeds 0 to `seeds` - 1 too.
    """
    return [
        training
        for number in numbers
        for training in _trainings(directory, number, seeds)
        if not training.folder.result_path.exists()
    ]


def certify_finals(
    job: SweepJob, trainings: Sequence[FinalTraining], console: Console, stop: SweepStop
) -> None:
    """Train and certify on the cluster, and certify the classifier without a denoiser.

    A sweep whose reference trains its classifier has none without. One whose process dies is taken
    up again, `RETRIES` times. What fails is said and written to its folder with the traceback; the
    others go on. When the sweep is to stop, they save their state and end.

    Raises:
        RayError: one of them has met what ends the sweep (`ends_sweep`).
    """
    waiting = _works(job, trainings)
    total, left = len(waiting), {work.start(): work for work in waiting}
    while left and not stop.overdue():
        for ref in ray.wait(list(left), num_returns=1, timeout=_POLL_SECONDS)[0]:
            work = left.pop(ref)
            try:
                certified = ray.get(ref)
            except RayError as error:
                if ends_sweep(error) is not None:
                    raise
                if (again := _again(work, error, job, console)) is not None:
                    left[again.start()] = again
                    continue
                _fail(work, error, console)
            else:
                how = "certified" if certified else "stopped"
                done = f"{total - len(left)} of {total}"
                say(f"{work.name} {how} ({done})", console)
    for ref in left:
        ray.cancel(ref, force=True)


@dataclass(frozen=True)
class _Work:
    """A task on the cluster.

    Attributes:
        function: that runs, of the job, `subject` and nothing else.
        job: put into Ray's store.
        deaths: of its process, so far.
    """

    name: str
    folder: SweepTrialFolder
    function: Callable[..., bool]
    subject: FinalTraining | TrialConfig
    job: Any
    claim: Claim
    deaths: int = 0

    def start(self) -> Any:
        """Start it and return Ray's reference."""
        # Not by `.options()`, with which Ray lets a worker live on that has used a GPU: it would
        # keep its memory there, and use that GPU for its next task, whichever one is assigned to
        # it. Without retries of Ray's own, of which nobody is told, and which know no end where
        # there is too little memory.
        as_task: Any = ray.remote(num_cpus=self.claim.cpu, num_gpus=self.claim.gpu, max_retries=0)
        return as_task(self.function).remote(self.job, self.subject)


def _works(job: SweepJob, trainings: Sequence[FinalTraining]) -> list[_Work]:
    claim, shared = job.claims.trial, ray.put(job)
    works = [_Work(t.name, t.folder, _final, t, shared, claim) for t in trainings]
    config, folder = reference_config(job.sweep), job.directory.undefended
    if kind_of(config).certifies_undefended and not folder.result_path.exists():
        works.append(_Work("no denoiser", folder, _undefended, config, shared, claim))
    return works


def _again(work: _Work, error: RayError, job: SweepJob, console: Console) -> _Work | None:
    """Return what is started in place of what has failed, if anything is."""
    trains = isinstance(work.subject, FinalTraining)
    if trains and any(crowded_out(e, work.claim) for e in behind(error)):
        say(f"{work.name} goes on with a GPU of its own", console)
        alone = with_gpu(job, 1)
        return replace(work, job=ray.put(alone), claim=alone.claims.trial)
    if not _died(error) or work.deaths >= RETRIES:
        return None
    deaths = work.deaths + 1
    say(
        f"{work.name}: its process died; it goes on from what it has written (retry {deaths} of "
        f"{RETRIES})",
        console,
    )
    return replace(work, deaths=deaths)


def _died(error: RayError) -> bool:
    """Tell a process that was killed, or had no memory left, from one that failed by itself."""
    return not isinstance(error, RayTaskError) or any(
        isinstance(cause, OutOfMemoryError) for cause in behind(error)
    )


def _fail(work: _Work, error: RayError, console: Console) -> None:
    """Write down a failure that the process could not, and say it in a line."""
    said = str(error)
    if _died(error):
        said = death(said, work.deaths + 1)
    state = work.folder.read_state()
    if isinstance(work.subject, FinalTraining) and (state is None or state.state == "running"):
        end_trial(work.folder, "failed", error=said)
    # The whole of it is in the folder; the others are still worth certifying.
    where = f": see {work.folder.state_path}" if work.folder.state_path.exists() else ""
    say(f"{work.name} failed: {last_line(said)}{where}", console)


def _trainings(directory: SweepDirectory, number: int, seeds: int) -> Iterator[FinalTraining]:
    record = directory.trial(number).read_record()
    if record is None:
        raise InputError(f"{directory.trial(number).path} has no trial.json.")
    yield FinalTraining(record.name, record, directory.final(number))
    if seeds == 1:
        return
    for seed in range(seeds):
        if seed != record.config.seed:
            yield FinalTraining(
                f"{record.row or f'trial {number}'} (seed {seed})",
                _from_seed(record, seed),
                directory.retraining(number, seed),
            )


def _from_seed(record: TrialRecord, seed: int) -> TrialRecord:
    return record.model_copy(
        update={
            "parameters": {**record.parameters, "seed": seed},
            "config": record.config.model_copy(update={"seed": seed}),
        }
    )


def _final(job: SweepJob, training: FinalTraining) -> bool:
    finished = False
    for report in run_recorded(job, training.record, training.folder, "test"):
        finished = report.finished
    return finished


def _undefended(job: SweepJob, config: TrialConfig) -> bool:
    if job.stopping():
        return False
    folder = job.directory.undefended
    sample_counts = SampleCounts(folder.read_samples())
    with fenced(job.path, job.fence):
        try:
            use_claimed(job.claims.trial, config)
            inputs = job.inputs_for(config)
            certify_undefended(
                config,
                inputs,
                folder,
                hooks=job.hooks(config, sample_counts),
            )
        except TrialStoppedError:
            return False
        finally:
            folder.write_samples(sample_counts)
    return True
