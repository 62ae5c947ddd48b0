"""Final trainings: chosen trials on the whole limited data, certified on the test split."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import ray
from ray.exceptions import RayError
from rich.console import Console

from decrop.config import TrialConfig
from decrop.errors import InputError
from decrop.trial import certify_undefended
from tune.directory import SweepDirectory, SweepTrialFolder, TrialRecord
from tune.job import SweepJob, run_recorded
from tune.space import reference_config


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

    Args:
        directory: of the sweep.
        numbers: of the trials, each to be trained from its own seed.
        seeds: where there are several, each is to be trained from seeds 0 to `seeds` - 1 too.
    """
    return [
        training
        for number in numbers
        for training in _trainings(directory, number, seeds)
        if not training.folder.result_path.exists()
    ]


def certify_finals(job: SweepJob, trainings: Sequence[FinalTraining], console: Console) -> None:
    """Train and certify on the cluster, and certify the classifier without a denoiser.

    What fails is said and written to its folder with the traceback; the others go on.
    """
    claim = job.claims.trial
    options = {"num_cpus": claim.cpu, "num_gpus": claim.gpu}
    shared = ray.put(job)
    running = {
        _final.options(**options).remote(shared, training): training.name for training in trainings
    }
    if not job.directory.undefended.result_path.exists():
        config = reference_config(job.sweep)
        running[_undefended.options(**options).remote(shared, config)] = "no denoiser"
    total = len(running)
    while running:
        ready, _ = ray.wait(list(running), num_returns=1)
        name = running.pop(ready[0])
        try:
            ray.get(ready[0])
        except RayError as error:
            # The traceback is in the trial's folder; the others are still worth certifying.
            console.print(f"{name} failed: {last_line(str(error))}", highlight=False)
        else:
            console.print(f"{name} certified ({total - len(running)} of {total})", highlight=False)


def last_line(text: str) -> str:
    """Return the last line of a traceback, which names the error."""
    return text.strip().splitlines()[-1]


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


@ray.remote
def _final(job: SweepJob, training: FinalTraining) -> None:
    for _ in run_recorded(job, training.record, training.folder, "test"):
        pass


@ray.remote
def _undefended(job: SweepJob, config: TrialConfig) -> None:
    certify_undefended(
        config,
        job.inputs_for(config),
        job.directory.undefended,
        make_sampler=job.make_sampler(config),
    )
