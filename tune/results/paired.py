"""Certificates of a sweep, and their certified accuracies compared, paired over images."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from decrop.config import TrialConfig
from decrop.evaluation.accuracy import average_certified_radius, certified_correct, exact_interval
from decrop.evaluation.comparison import holm_adjusted, paired_difference, paired_p_values
from decrop.evaluation.record import CertificationRecord
from decrop.evaluation.table import CertificateTable
from decrop.trial.certify import last_estimation_samples
from decrop.trial.result import radius_key
from tune.directory import SweepDirectory, SweepTrialFolder
from tune.results.ranking import REFERENCE


def read_final(directory: SweepDirectory, number: int | None) -> CertificateTable:
    """Read a trial's certificates on test images; without a number those without a denoiser."""
    folder = directory.undefended if number is None else directory.final(number)
    return read_certificates(folder, _config(directory, number or REFERENCE))


def read_certificates(folder: SweepTrialFolder, config: TrialConfig | None) -> CertificateTable:
    """Read a trial's certificates; its settings are for tables that have no record."""
    table = CertificateTable.read_tsv(folder.certificates_path)
    if table.record is not None:
        return table
    return replace(table, record=recorded(folder, config))


def held_out_record(directory: SweepDirectory, number: int) -> CertificationRecord | None:
    """Return how a complete trial was measured on held-out images."""
    return recorded(directory.trial(number), _config(directory, number))


def recorded(folder: SweepTrialFolder, config: TrialConfig | None) -> CertificationRecord | None:
    """Return the record that a folder's settings and result make; None without them."""
    result = folder.result
    if config is None or result is None:
        return None
    return result.record(config, last_estimation_samples(config.certification, result.split))


def _config(directory: SweepDirectory, number: int) -> TrialConfig | None:
    record = directory.trial(number).read_record() or directory.final(number).read_record()
    return None if record is None else record.config


Key = TypeVar("Key", bound=Hashable)
# Certificates by the seed of the training; `None` for what is the same whatever the seed.
Runs = Mapping[int | None, CertificateTable]
# As many runs of either.
Pair = tuple[Sequence[CertificateTable], Sequence[CertificateTable]]


@dataclass(frozen=True)
class Row:
    """What is certified of one denoiser, or classifier, or bundle, from one seed or several."""

    name: str
    runs: Runs

    @property
    def tables(self) -> list[CertificateTable]:
        """The certificates of each run."""
        return list(self.runs.values())

    def certified_accuracy(self, radii: tuple[float, ...]) -> dict[str, list[float]]:
        """Return the share of images certified correct, a value a run, by radius."""
        accuracies = np.stack([_certified(table, radii).mean(axis=1) for table in self.tables])
        return dict(zip(map(radius_key, radii), accuracies.T.tolist(), strict=True))

    def intervals(self, radii: tuple[float, ...]) -> dict[str, tuple[float, float]]:
        """Return exact 95 % intervals of the first run's certified accuracies, by radius."""
        certified = _certified(self.tables[0], radii)
        low, high = exact_interval(certified.sum(axis=1), certified.shape[1])
        return {
            radius_key(radius): (float(low[i]), float(high[i])) for i, radius in enumerate(radii)
        }

    def average_certified_radius(self) -> list[float]:
        """Return the average certified radius in [0,1] pixels, a value a run."""
        return [average_certified_radius(t.predict, t.radius, t.label) for t in self.tables]

    def measured_otherwise(self, yardstick: "Row") -> str:
        """Say in which settings its certificates differ from others; empty if in none."""
        return differences(self.tables[0].record, yardstick.tables[0].record)


@dataclass(frozen=True)
class Comparison:
    """Certified accuracies of one against those of another, at one radius, on the same images.

    Attributes:
        points: difference of certified accuracies in percentage points; of means over runs.
        low: of its 95 % interval (Bonett and Price 2012).
        high: of its 95 % interval.
        p_value: exact paired test over images, McNemar's where each has one run.
        holm_p_value: the same, adjusted for all opponents and radii that are compared together.
        runs: of either.
    """

    points: float
    low: float
    high: float
    p_value: float
    holm_p_value: float
    runs: int = 1


Comparisons = dict[str, Comparison]


def compare(
    rows: Mapping[Key, tuple[Row, Row]], radii: tuple[float, ...]
) -> dict[Key, Comparisons]:
    """Compare the first of each two rows with the second, by radius.

    Runs of the same seed are compared; rows that share none are left out. The p-values are
    Holm-adjusted over all pairs and radii, so what is shown together is to be compared together.
    Tests of which no image tells the two apart do not count, for given which images do, they cannot
    reject (Tarone 1990, Biometrics 46(2)).
    """
    paired = {key: _paired(ours.runs, theirs.runs) for key, (ours, theirs) in rows.items()}
    pairs = {key: pair for key, pair in paired.items() if pair[0]}
    if not pairs:
        return {}
    counts = {
        key: (_times_certified(ours, radii), _times_certified(theirs, radii))
        for key, (ours, theirs) in pairs.items()
    }
    p_values = {key: paired_p_values(*both) for key, both in counts.items()}
    adjusted = np.stack(list(p_values.values()))
    told_apart = np.stack([(ours != theirs).any(axis=1) for ours, theirs in counts.values()])
    adjusted[told_apart] = holm_adjusted(adjusted[told_apart])
    comparisons = {}
    for row, (key, both) in enumerate(counts.items()):
        runs = len(pairs[key][0])
        difference = paired_difference(*both, runs=runs)
        comparisons[key] = {
            radius_key(radius): Comparison(
                points=float(difference.points[i]),
                low=float(difference.low[i]),
                high=float(difference.high[i]),
                p_value=float(p_values[key][i]),
                holm_p_value=float(adjusted[row, i]),
                runs=runs,
            )
            for i, radius in enumerate(radii)
        }
    return comparisons


@dataclass(frozen=True)
class ComparedTrials:
    """Trials compared with trial 0 and with no denoiser, which are shown together."""

    against_reference: Mapping[int, Comparisons]
    against_undefended: Mapping[int, Comparisons]

    @classmethod
    def of(
        cls, rows: Mapping[int, Row], undefended: Row | None, radii: tuple[float, ...]
    ) -> "ComparedTrials":
        """Compare trials, by number, as far as there is something to compare them with."""
        pairs: dict[tuple[str, int], tuple[Row, Row]] = {}
        for number, row in rows.items():
            if number != REFERENCE and REFERENCE in rows:
                pairs["reference", number] = (row, rows[REFERENCE])
            if undefended is not None:
                pairs["undefended", number] = (row, undefended)
        compared = compare(pairs, radii)

        def against(opponent: str) -> dict[int, Comparisons]:
            return {number: found for (to, number), found in compared.items() if to == opponent}

        return cls(against("reference"), against("undefended"))


def differences(record: CertificationRecord | None, other: CertificationRecord | None) -> str:
    """Say in which settings certificates differ from those that they are compared with."""
    if record is None or other is None:
        return "settings unknown"
    return "; ".join(record.differences(other))


def _paired(ours: Runs, theirs: Runs) -> Pair:
    if None in theirs:
        return list(ours.values()), [theirs[None]] * len(ours)
    if None in ours:
        return [ours[None]] * len(theirs), list(theirs.values())
    seeds = [seed for seed in ours if seed in theirs]
    return [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]


def _certified(table: CertificateTable, radii: tuple[float, ...]) -> NDArray[np.bool_]:
    return certified_correct(table.predict, table.radius, table.label, np.asarray(radii))


def _times_certified(
    tables: Sequence[CertificateTable], radii: tuple[float, ...]
) -> NDArray[np.int64]:
    times: NDArray[np.int64] = np.sum(
        [_certified(table, radii) for table in tables], axis=0, dtype=np.int64
    )
    return times
