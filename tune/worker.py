"""A worker of a sweep: what it needs to know, and how it runs one trial for Ray Tune."""

import math
import os
import socket
import traceback
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from ray.tune import PlacementGroupFactory, Trainable

# Before networks of torchvision's are unpickled.
import decrop._torchvision_operators  # noqa: F401
from decrop.cache import ContentCache
from decrop.classifiers.storage import store_classifier
from decrop.config import TrialConfig
from decrop.errors import InputError
from decrop.files import fenced, write_json
from decrop.smoothing.execution import hardware_of, resolve_device
from decrop.training.hooks import Hooks, TrialStoppedError
from decrop.trial.folder import Report
from decrop.trial.inputs import TrialInputs
from decrop.trial.prepare import load_inputs
from decrop.trial.result import Split
from decrop.trial.run import run_trial, stopping_epoch
from tune.cluster import Claim, Claims, bound_memory
from tune.directory import (
    State,
    SweepDirectory,
    SweepTrialFolder,
    TrialRecord,
    TrialState,
    now,
)
from tune.monitor import code_record, monitored
from tune.results.metric import Metric
from tune.sample_counts import SampleCounts
from tune.scheduler import EVALUATION
from tune.shards import ShardedSampler
from tune.space import (
    INPUT_GROUPS,
    denoiser_origins,
    objectives_of,
    reference_config,
    trial_config_for,
    trial_kinds,
    trial_row,
    varied_paths,
)
from tune.stopping import ends_sweep
from tune.sweep_file import SweepConfig

# Below the traceback of what had no other process beside it.
_TOO_LARGE = (
    "out of memory: it does not fit even alone; lower training.batch_size, or execution.chunk_size"
)


@dataclass(frozen=True)
class SweepJob:
    """A sweep as its workers see it.

    Attributes:
        path: the sweep directory, seen by every host.
        inputs: classifier and data, None where trials differ in them and load their own.
        fence: through which they write (`tune.driver`), None where there is no driver.
    """

    path: Path
    sweep: SweepConfig
    claims: Claims
    inputs: TrialInputs | None
    fence: Path | None = None

    @property
    def directory(self) -> SweepDirectory:
        """The sweep directory."""
        return SweepDirectory(self.path)

    @property
    def cache(self) -> ContentCache:
        """Where stage-1 samples and trained classifiers are shared."""
        return ContentCache(self.directory.cache_path)

    def stopping(self) -> bool:
        """Tell whether the sweep's driver has asked its workers to stop."""
        return self.directory.stop_path.exists()

    def config(self, number: int, parameters: Mapping[str, Any]) -> TrialConfig:
        """Return the settings of a trial."""
        if number == 0:
            return reference_config(self.sweep)
        return trial_config_for(self.sweep, parameters)

    def inputs_for(self, config: TrialConfig) -> TrialInputs:
        """Return the shared inputs, or load those of this trial."""
        # A surrogate is trained from the trial's own seed, on answers that all seeds share.
        own = config.classifier.surrogate and config.seed != reference_config(self.sweep).seed
        if self.inputs is not None and not own:
            return self.inputs
        inputs = load_inputs(
            config,
            self.cache,
            resolve_device(config.execution.device),
            ledger=self.directory.queries_path,
        )
        self.store_classifier(inputs)
        return inputs

    def check_inputs_kept(self, config: TrialConfig, found: Mapping[str, str]) -> None:
        """Check that what settings name is still what other trainings of the sweep have had.

        Args:
            found: content hashes of what it reads, by role.

        Raises:
            ChangedInputsError: the classifier or a dataset has changed.
        """
        ours = _naming(config)
        for folder, other in self._begun():
            theirs = _naming(other)
            same = {role: digest for role, digest in found.items() if theirs[role] == ours[role]}
            folder.check_inputs(same)

    def _begun(self) -> Iterator[tuple[SweepTrialFolder, TrialConfig]]:
        for folder in self.directory.training_folders():
            if (record := folder.read_record()) is not None:
                yield folder, record.config
        yield self.directory.undefended, reference_config(self.sweep)

    def store_classifier(self, inputs: TrialInputs) -> None:
        """Keep a classifier in the sweep directory, for bundles, unless trials train it."""
        if inputs.training_images is not None:
            return
        folder = self.directory.classifier_path(inputs.protected.content_hash())
        store_classifier(inputs.protected, inputs.class_names, folder)

    @property
    def objectives(self) -> list[Metric]:
        """What the sweep searches for."""
        return objectives_of(self.sweep)

    def hooks(self, config: TrialConfig, sample_counts: SampleCounts) -> Hooks:
        """Return the hooks of a trial: helpers of the cluster sample too, a sweep may stop it."""
        device = resolve_device(config.execution.device)
        return Hooks(
            should_stop=self.stopping,
            times_images="latency" in self.sweep.objectives,
            make_sampler=lambda task: ShardedSampler(
                task,
                device,
                helper=self.claims.helper,
                max_helpers=self.claims.max_helpers,
                sample_counts=sample_counts,
            ),
        )


def shares_inputs(sweep: SweepConfig) -> bool:
    """Tell whether all trials of a sweep work on the same classifier and data."""
    varied, trained = varied_paths(sweep), trial_kinds(sweep)
    if len(trained) > 1:
        return False
    if trained == {"classifier"}:
        # The data that trials train their classifiers on is the same however they do it.
        varied = [path for path in varied if not _is_how(path)]
    elif "sigma" in varied and _trained_with_noise(reference_config(sweep)):
        return False
    if any(path.split(".")[0] in INPUT_GROUPS for path in varied):
        return False
    # Of denoisers that are trained already the inputs hold one.
    reference = reference_config(sweep).denoiser.origin
    configs = (trial_config_for(sweep, point) for point in denoiser_origins(sweep))
    return all(config.denoiser.origin == reference for config in configs)


def _is_how(path: str) -> bool:
    elsewhere = ("trained_on", "initial_weights")
    prefix, _, name = path.rpartition(".")
    return prefix == "classifier.training" and name not in elsewhere


def _trained_with_noise(config: TrialConfig) -> bool:
    training = config.classifier.training
    return training is not None and training.noisy and training.sigma is None


def _naming(config: TrialConfig) -> dict[str, Any]:
    """Return, for each role of what a training reads, the settings that say what it is."""
    config = config.without_budget()
    data, classifier = (config.dataset, config.limited), config.classifier
    training = classifier.training
    return {
        "limited_data": data,
        "test_images": (config.dataset, config.certification.test_images),
        "training_images": (data, training and training.trained_on),
        "initial_weights": (classifier.source, training and training.initial_weights),
        "classifier": (data, classifier, config.sigma if _trained_with_noise(config) else None),
        "classifier_code": classifier,
        "surrogate": (data, classifier, config.seed),
        "initial_denoiser": config.denoiser,
        "denoiser_code": config.denoiser,
    }


def run_recorded(
    job: SweepJob, record: TrialRecord, folder: SweepTrialFolder, split: Split
) -> Iterator[Report]:
    """Run a trial in its folder, recording what it is and how far it has come.

    A failure is written down with its traceback before it is raised, but not what ends the sweep,
    such as a full disk: once that is mended, the trial goes on; nor that others have the memory of
    its GPU, without whom it goes on. When the sweep is to stop, the
    trial saves its state and yields no more, and its folder goes on saying that it runs.
    """
    if not job.stopping():
        with fenced(job.path, job.fence):
            yield from _run_recorded(job, record, folder, split)


def _run_recorded(
    job: SweepJob, record: TrialRecord, folder: SweepTrialFolder, split: Split
) -> Iterator[Report]:
    folder.write_record(record)
    earlier = folder.read_state()
    started = earlier.started if earlier is not None else now()
    folder.write_state(TrialState(state="running", started=started))
    sample_counts = SampleCounts(folder.read_samples())
    try:
        use_claimed(job.claims.trial, record.config)
        hardware = hardware_of(resolve_device(record.config.execution.device))
        code = code_record().model_copy(update={"hardware": hardware})
        write_json(folder.code_path, code.model_dump(mode="json"))
        with monitored(folder):
            inputs = job.inputs_for(record.config)
            if inputs is not job.inputs:
                job.check_inputs_kept(record.config, inputs.hashes_of(record.config, split))
            for report in _reports(job, record, folder, inputs, sample_counts, split):
                folder.write_samples(sample_counts)
                if report.finished:
                    end_trial(folder, "complete")
                yield report
    except TrialStoppedError:
        folder.write_samples(sample_counts)
        return
    except Exception as error:
        if ends_sweep(error) is not None or crowded_out(error, job.claims.trial):
            raise
        if isinstance(error, torch.OutOfMemoryError):
            error.add_note(_TOO_LARGE)
        end_trial(folder, "failed", error=traceback.format_exc())
        raise


def with_gpu(job: SweepJob, gpu: float) -> SweepJob:
    """Return a job whose trials claim so much of a GPU."""
    trial = replace(job.claims.trial, gpu=gpu)
    return replace(job, claims=replace(job.claims, trial=trial))


def crowded_out(error: BaseException, claim: Claim) -> bool:
    """Tell whether a trial has met the end of its share of a GPU's memory."""
    return isinstance(error, torch.OutOfMemoryError) and 0 < claim.gpu < 1


def use_claimed(claim: Claim, config: TrialConfig) -> None:
    """Compute on what this process has claimed: so many threads, and a share of a GPU or none."""
    torch.set_num_threads(max(1, int(claim.cpu)))
    if claim.gpu == 0:
        # Ray leaves it as it is, and `auto` would take a GPU that others have claimed.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return
    if config.execution.device != "cpu" and not torch.cuda.is_available():
        raise InputError(
            f"resources.trial.gpu = {claim.gpu:g}, but PyTorch finds no CUDA device on "
            f"{socket.gethostname()}, where Ray has counted one; mend it, or use --set "
            "resources.trial.gpu=0 to compute on CPUs."
        )
    bound_memory(claim.gpu)


def _reports(
    job: SweepJob,
    record: TrialRecord,
    folder: SweepTrialFolder,
    inputs: TrialInputs,
    sample_counts: SampleCounts,
    split: Split,
) -> Iterator[Report]:
    trial = job.directory.trial(record.number)
    return run_trial(
        record.config,
        inputs,
        folder,
        job.cache,
        split=split,
        last_epoch=stopping_epoch(record.config, trial) if split == "test" else None,
        trained=trial if split == "test" and _stays_as_trained(record, trial) else None,
        hooks=job.hooks(record.config, sample_counts),
    )


def _stays_as_trained(record: TrialRecord, trial: SweepTrialFolder) -> bool:
    """Tell whether a trial's classifier is certified as it is rather than trained once more."""
    earlier = trial.read_record()
    same = earlier is not None and earlier.config == record.config
    return same and not record.config.trains_again_for_test


def end_trial(folder: SweepTrialFolder, state: State, *, error: str | None = None) -> None:
    """Write down that a trial has ended, and how."""
    earlier = folder.read_state()
    started = earlier.started if earlier is not None else now()
    folder.write_state(TrialState(state=state, started=started, ended=now(), error=error))


METRIC = "average_certified_radius"
# The value of the sweep's first objective, by which it prunes; more is better.
OBJECTIVE = "objective"
# Keys of results that are no scores: the trial failed and raises its error at the next step, or it
# ended because the sweep is to stop, where the trial has found out so itself with reason and cause.
# A trial that is crowded out fails too, but may be taken up again.
FAILED, STOPPED, REASON, CAUSE = "failed", "stopped", "reason", "cause"
CROWDED_OUT = "crowded_out"
_NO_SCORE = {METRIC: math.nan, OBJECTIVE: math.nan, EVALUATION: 0, "finished": False}


class SweepTrial(Trainable):
    """Thin adapter from the reports of a trial to the steps of a Trainable.

    A class rather than a function, because a generator that is closed stops at once, where a
    function's thread would have to be waited for.
    """

    _job: SweepJob
    _reports: Generator[Report]
    _failure: Exception | None

    def setup(  # type: ignore[override]  # with_parameters adds the job
        self, config: dict[str, Any], job: SweepJob
    ) -> None:
        """Take up the trial that the searcher proposed."""
        if isinstance(self.trial_resources, PlacementGroupFactory):
            # More than the others have, if this one was crowded out.
            job = with_gpu(job, self.trial_resources.required_resources.get("GPU", 0.0))
        self._job = job
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Turn the same process to another trial, which saves its start."""
        self.cleanup()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train until the next evaluation and return its scores.

        A trial that fails says so before it raises, so that the driver can tell it from one whose
        process died, and only takes up the latter again.
        """
        if self._failure is not None:
            raise self._failure
        try:
            report = next(self._reports, None)
        except Exception as failure:
            if (found := ends_sweep(failure)) is not None:
                reason, cause = found
                return {**_NO_SCORE, STOPPED: True, REASON: reason, CAUSE: cause, "done": True}
            self._failure = failure
            why = CROWDED_OUT if crowded_out(failure, self._job.claims.trial) else FAILED
            return {**_NO_SCORE, why: True, "done": False}
        if report is None:
            return {**_NO_SCORE, STOPPED: True, "done": True}
        scores = asdict(report)
        objective = self._job.objectives[0].score(scores)
        return {**scores, OBJECTIVE: objective, "done": report.finished}

    def cleanup(self) -> None:
        """Stop the trial."""
        self._reports.close()

    def _begin(self, config: dict[str, Any]) -> None:
        self._failure = None
        self._reports = self._run(config)

    def _run(self, config: dict[str, Any]) -> Generator[Report]:
        number = config["number"]
        record = TrialRecord(
            number=number,
            row=trial_row(self._job.sweep, number),
            reference=config["reference"],
            parameters=config["parameters"],
            config=self._job.config(number, config["parameters"]),
        )
        folder = self._job.directory.trial(number)
        yield from run_recorded(self._job, record, folder, "held_out")
