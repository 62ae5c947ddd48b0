"""Earlier sweeps that a new one learns from: their trials, as far as both measure alike."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from safetensors import SafetensorError

from decrop.config import CountOrZero, FreeMapping, Number, Settings, Text, TrialConfig
from decrop.config.settings import Hashes
from decrop.config.trial import MEASURING
from decrop.documents import get_dotted, show
from decrop.errors import InputError
from decrop.files import write_json
from decrop.trial.folder import Report
from decrop.wording import counted
from tune.directory import SweepDirectory, SweepTrialFolder, read_record
from tune.domains import contains
from tune.finished_trials import FinishedTrial, other_values
from tune.space import objectives_of, parameters_in, reference_config, trial_config_for
from tune.sweep_file import SweepConfig

_MOST_TRIALS = 100_000
# Characters of an error.
_SHOWN = 200
# Of trials that are left out.
_OUTSIDE, _OTHERWISE = "outside of the space", "with other settings that are fixed here"
_UNSCORED = "without a score"
# They may differ: no score is expected to depend on them, but for chance.
_FREE = ("seed", "execution")


class EarlierTrial(Settings):
    """A trial of an earlier sweep, with its values of what the new one varies."""

    source: Text = Field(description="Folder of the trial, as it was given.")
    parameters: FreeMapping = Field(description="Values by dotted path.")
    state: Literal["complete", "pruned"] = Field(description="How it ended.")
    scores: tuple[tuple[CountOrZero, Number], ...] = Field(
        min_length=1,
        max_length=10_000,
        description="Evaluations with their score by the first objective, in order.",
    )
    others: tuple[Number, ...] = Field(
        default=(), max_length=10, description="Values by the other objectives, if it is complete."
    )
    inputs: Hashes = Field(default={}, description="Content of what it worked on, by role.")


class EarlierTrials(Settings):
    """`learnt.json`: what a sweep began with."""

    trials: tuple[EarlierTrial, ...] = Field(max_length=_MOST_TRIALS, description="In order.")


def gather(sweep: SweepConfig, paths: Sequence[Path], say: Callable[[str], None]) -> EarlierTrials:
    """Gather what a sweep can learn from the directories of earlier ones, and say how much it is.

    Left out are trials that failed, whose values lie outside of the sweep's domains, or that differ
    in what it fixes.

    Args:
        paths: of the directories, which strangers may have written.
    """
    if paths and sweep.search in ("grid", "rows"):
        raise InputError(f"--learn-from: search {sweep.search} learns from nothing; use tpe.")
    found: list[EarlierTrial] = []
    for path in paths:
        directory = SweepDirectory.open(path)
        left_out: Counter[str] = Counter()
        before = len(found)
        for number in directory.trial_numbers():
            taken = _take(sweep, directory.trial(number))
            if isinstance(taken, str):
                left_out[taken] += 1
            else:
                found.append(taken)
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        learnt = counted(len(found) - before, "trial")
        say(f"learns from {learnt} of {path}{why and f'; left out: {why}'}")
    return EarlierTrials(trials=tuple(found[:_MOST_TRIALS]))


def write_learnt(directory: SweepDirectory, learnt: EarlierTrials) -> None:
    """Write `learnt.json`, from which the sweep goes on, too, unless there is nothing in it."""
    if learnt.trials:
        write_json(directory.learnt_path, learnt.model_dump(mode="json"))


def read_learnt(directory: SweepDirectory) -> EarlierTrials:
    """Read what a sweep began with; nothing if it learnt from none."""
    return read_record(directory.learnt_path, EarlierTrials) or EarlierTrials(trials=())


def check_same_inputs(learnt: EarlierTrials, hashes: Mapping[str, str]) -> None:
    """Check that earlier trials worked on a classifier and data of the same content."""
    for trial in learnt.trials:
        for role, digest in trial.inputs.items():
            if hashes.get(role, digest) != digest:
                raise InputError(
                    f"--learn-from: {trial.source} was scored with another {role} than this sweep "
                    "has; leave its sweep out."
                )


def as_finished(learnt: EarlierTrials) -> list[FinishedTrial]:
    """Return earlier trials with numbers below 0, for a study and a scheduler."""
    return [
        FinishedTrial(
            -1 - position,
            trial.parameters,
            trial.state,
            trial.scores[-1][1],
            dict(trial.scores),
            trial.others,
        )
        for position, trial in enumerate(learnt.trials)
    ]


def _take(sweep: SweepConfig, folder: SweepTrialFolder) -> EarlierTrial | str:
    """Return what there is to learn of a trial, or why there is nothing."""
    record, state = folder.read_record(), folder.read_state()
    if record is None or state is None or state.state not in ("complete", "pruned"):
        return _UNSCORED
    _check_measured_alike(reference_config(sweep), record.config, folder.path)
    parameters = parameters_in(record.config, sweep.space)
    if not contains(sweep.space, parameters):
        return _OUTSIDE
    if not _same_but_for_chance(trial_config_for(sweep, parameters), record.config):
        return _OTHERWISE
    objectives = objectives_of(sweep)
    reports = read_record(folder.reports_path, list[Report]) or []
    if not reports:
        return _UNSCORED
    try:
        return EarlierTrial(
            source=str(folder.path),
            parameters=parameters,
            state="complete" if state.state == "complete" else "pruned",
            scores=tuple(
                (report.evaluation, objectives[0].score(vars(report)))
                for report in sorted(reports, key=lambda report: report.evaluation)
            ),
            others=other_values(folder, objectives) if state.state == "complete" else (),
            inputs=folder.read_inputs(),
        )
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        what = " ".join(str(error).split())[:_SHOWN]
        raise InputError(f"{folder.path}: its scores cannot be used: {what}") from None


def _check_measured_alike(ours: TrialConfig, theirs: TrialConfig, where: Path) -> None:
    documents = ours.without_budget().model_dump(), theirs.without_budget().model_dump()
    for path in MEASURING:
        own, other = (_setting(document, path) for document in documents)
        if own == other:
            continue
        if isinstance(own, dict) and isinstance(other, dict):
            name = next(name for name in own if own[name] != other.get(name))
            path, own, other = f"{path}.{name}", own[name], other.get(name)
        raise InputError(
            f"--learn-from: {where} was measured otherwise: {path} is {show(other)} there and "
            f"{show(own)} here, so that scores cannot be compared; leave its sweep out."
        )


def _setting(document: Mapping[str, Any], path: str) -> Any:
    try:
        return get_dotted(document, path)
    except KeyError:
        return None


def _same_but_for_chance(ours: TrialConfig, theirs: TrialConfig) -> bool:
    documents = [config.without_budget().model_dump() for config in (ours, theirs)]
    for document in documents:
        for name in _FREE:
            del document[name]
    return documents[0] == documents[1]
