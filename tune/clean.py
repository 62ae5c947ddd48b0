"""Removal of checkpoints that nothing needs any more."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from decrop.files import fence_of
from tune.directory import SweepDirectory, SweepTrialFolder
from tune.results.ranking import chosen, ranking

_BYTES_PER_MEGABYTE = 1e6


@dataclass(frozen=True)
class Removal:
    """Files of a sweep that can go.

    Attributes:
        kept: trials that keep all they have: the best and trial 0.
        unfinished: trials that have not ended and keep what they go on from.
        trials: those that lose a file.
        files: to be removed.
        megabytes: that they take.
    """

    kept: tuple[int, ...]
    unfinished: tuple[int, ...]
    trials: tuple[int, ...]
    files: tuple[Path, ...]
    megabytes: float


def plan_removal(directory: SweepDirectory, top: int | None = None) -> Removal:
    """List the checkpoints that a sweep which does not run can do without.

    A checkpoint is what training goes on from. Those stay of what has not ended, of the `top` best
    by held-out score, and of trial 0; parts of files that a killed process left go too.
    """
    kept = chosen(list(ranking(directory)), top or directory.read_record().sweep.leaderboard.top)
    files: dict[int, list[Path]] = {}
    unfinished = []
    for number in directory.trial_numbers():
        trial = directory.trial(number)
        found = list(_parts(trial))
        if not _has_ended(trial):
            unfinished.append(number)
        elif number not in kept:
            found += _checkpoint(trial)
        for training in _trainings(directory, number):
            found += _parts(training)
            if training.result_path.exists() and number not in kept:
                found += _checkpoint(training)
        if found:
            files[number] = found
    listed = [path for found in files.values() for path in found]
    return Removal(
        kept=tuple(kept),
        unfinished=tuple(unfinished),
        trials=tuple(files),
        files=tuple(listed),
        megabytes=sum(path.stat().st_size for path in listed) / _BYTES_PER_MEGABYTE,
    )


def remove(removal: Removal) -> None:
    """Remove the files.

    Raises:
        LostFolderError: another process has taken the sweep over.
    """
    for path in removal.files:
        fence_of(path)
        path.unlink(missing_ok=True)


def _trainings(directory: SweepDirectory, number: int) -> Iterator[SweepTrialFolder]:
    final = directory.final(number)
    if final.path.exists():
        yield final
        for seed in directory.retrained_seeds(number):
            yield directory.retraining(number, seed)


def _has_ended(trial: SweepTrialFolder) -> bool:
    state = trial.read_state()
    if state is None or state.state == "running":
        return False
    return state.state != "complete" or trial.result_path.exists()


def _checkpoint(folder: SweepTrialFolder) -> list[Path]:
    return [folder.checkpoint_path] if folder.checkpoint_path.exists() else []


def _parts(folder: SweepTrialFolder) -> list[Path]:
    return sorted(folder.path.glob(".*.tmp"))
