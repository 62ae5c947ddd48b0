"""Final trainings: chosen trials on the whole limited data, certified on the test split."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from rich.console import Console

from decrop.config import TrialConfig
from decrop.errors import InputError
from decrop.files import fenced
from decrop.training.hooks import TrialStoppedError
from decrop.trial.run import certify_undefended
from tune.directory import SampleCounts, SweepDirectory, SweepTrialFolder, TrialRecord
from tune.space import kind_of, reference_config
from tune.stopping import SweepStop, behind, ends_sweep, last_line
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

    A sweep whose reference trains its classifier has none without. What fails is said and written
    to its folder with the traceback; the others go on. When the sweep is to stop, they save their
    state and end.

    Raises:
        RayError: one of them has met what ends the sweep (`ends_sweep`).
    """
    claim = job.claims.trial
    # Not by `.options()`, with which Ray lets a worker live on that has used a GPU: it would keep
    # its memory there, and use that GPU for its next task, whichever one is assigned to it.
    as_task: Any = ray.remote(num_cpus=claim.cpu, num_gpus=claim.gpu)
    final, undefended = as_task(_final), as_task(_undefended)
    shared = ray.put(job)
    running = {final.remote(shared, t): t for t in trainings}
    names = {ref: training.name for ref, training in running.items()}
    config = reference_config(job.sweep)
    folder = job.directory.undefended
    if kind_of(config).certifies_undefended and not folder.result_path.exists():
        names[undefended.remote(shared, config)] = "no denoiser"
    left = dict(names)
    while left and not stop.overdue():
        for ref in ray.wait(list(left), num_returns=1, timeout=_POLL_SECONDS)[0]:
            name = left.pop(ref)
            try:
                certified = ray.get(ref)
            except RayError as error:
                if ends_sweep(error) is not None:
                    raise
                if ref in running and any(crowded_out(e, claim) for e in behind(error)):
                    console.print(f"{name} goes on with a GPU of its own")
                    del names[ref]
                    again = ray.remote(num_cpus=claim.cpu, num_gpus=1)(_final).remote(
                        with_gpu(job, 1), running[ref]
                    )
                    running[again], names[again], left[again] = running[ref], name, name
                    continue
                # The traceback is in the trial's folder; the others are still worth certifying.
                line = last_line(str(error))
                console.print(f"{name} failed: {line}")
                if ref in running:
                    _end_if_it_died(running[ref].folder, line)
            else:
                how = "certified" if certified else "stopped"
                done = f"{len(names) - len(left)} of {len(names)}"
                console.print(f"{name} {how} ({done})")
    for ref in left:
        ray.cancel(ref, force=True)


def _end_if_it_died(folder: SweepTrialFolder, error: str) -> None:
    """Write down the failure of a process that could not do so itself."""
    state = folder.read_state()
    if state is None or state.state == "running":
        end_trial(folder, "failed", error=error)


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
