"""Settings compared over seeds: the trials of the leaderboard, each trained several times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from decrop.evaluation.table import CertificateTable
from decrop.trial.result import TrialResult, radius_key
from tune.directory import SweepDirectory, SweepTrialFolder
from tune.results.paired import Comparisons, compare_with_both


@dataclass(frozen=True)
class Spread:
    """A value of several trainings.

    Attributes:
        values: by seed, in their order.
        mean: of the values.
        deviation: standard deviation of the values; None for a single one.
    """

    values: tuple[float, ...]
    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Summarise values."""
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return cls(tuple(values), float(np.mean(values)), deviation)


@dataclass(frozen=True)
class SettingsEntry:
    """The settings of a trial, trained on the whole limited data from several seeds.

    Attributes:
        number: of the trial.
        seeds: of the trainings that are certified on the test split.
        certified_accuracy: on test images, by radius.
        average_certified_radius: on test images.
        clean_accuracy: on test images without noise.
        against_reference: compared with the settings of trial 0 over the seeds of both, by radius.
        against_undefended: compared with no denoiser, by radius.
        name: of the trial's row, where the sweep is a table.
    """

    number: int
    seeds: tuple[int, ...]
    certified_accuracy: dict[str, Spread]
    average_certified_radius: Spread
    clean_accuracy: Spread
    against_reference: Comparisons | None
    against_undefended: Comparisons | None
    name: str | None = None


def read_settings_entries(
    directory: SweepDirectory,
    names: Mapping[int, str | None],
    radii: tuple[float, ...],
    *,
    bare: CertificateTable | None,
    seeds: int,
) -> list[SettingsEntry]:
    """Compare the settings of trials over the seeds that are certified.

    Args:
        directory: of the sweep.
        names: of the trials' rows, by number, in the order of the entries.
        radii: at which certified accuracies are compared.
        bare: certificates without a denoiser, which are the same for every seed; None where there
            are none.
        seeds: seeds 0 to `seeds` - 1 are compared.
    """
    folders = {number: _certified(directory, number, seeds) for number in names}
    tables = {
        number: {
            seed: CertificateTable.read_tsv(folder.certificates_path)
            for seed, folder in runs.items()
        }
        for number, runs in folders.items()
    }
    against_reference, against_undefended = compare_with_both(tables, radii, bare=bare)
    return [
        _entry(
            number,
            runs,
            radii,
            against_reference=against_reference.get(number),
            against_undefended=against_undefended.get(number),
            name=names[number],
        )
        for number, runs in folders.items()
        if runs
    ]


def _certified(directory: SweepDirectory, number: int, seeds: int) -> dict[int, SweepTrialFolder]:
    folders = {seed: directory.retraining(number, seed) for seed in range(seeds)}
    return {seed: folder for seed, folder in folders.items() if folder.result_path.exists()}


def _entry(
    number: int,
    runs: Mapping[int, SweepTrialFolder],
    radii: tuple[float, ...],
    *,
    against_reference: Comparisons | None,
    against_undefended: Comparisons | None,
    name: str | None,
) -> SettingsEntry:
    results = [TrialResult.from_json(folder.read_result() or {}) for folder in runs.values()]
    return SettingsEntry(
        number=number,
        seeds=tuple(runs),
        certified_accuracy={
            key: Spread.of([result.scores.certified_accuracy[key] for result in results])
            for key in map(radius_key, radii)
        },
        average_certified_radius=Spread.of(
            [result.scores.average_certified_radius for result in results]
        ),
        clean_accuracy=Spread.of([result.clean_accuracy for result in results]),
        against_reference=against_reference,
        against_undefended=against_undefended,
        name=name,
    )
