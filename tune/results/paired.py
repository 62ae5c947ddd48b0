"""Certificates of a sweep, and their certified accuracies compared, paired over images."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from decrop.config import TrialConfig
from decrop.evaluation.accuracy import certified_correct
from decrop.evaluation.comparison import holm_adjusted, paired_difference, paired_p_values
from decrop.evaluation.record import CertificationRecord
from decrop.evaluation.table import CertificateTable
from decrop.trial.certify import last_estimation_samples
from decrop.trial.result import TrialResult, radius_key
from tune.directory import SweepDirectory, SweepTrialFolder
from tune.results.ranking import REFERENCE


def read_final(directory: SweepDirectory, number: int | None) -> CertificateTable:
    """Read certificates on test images.

    Args:
        directory: of the sweep.
        number: of the trial; None for no denoiser, whose settings are trial 0's.

    Raises:
        InputError: a file is missing or broken.
    """
    folder = directory.undefended if number is None else directory.final(number)
    return read_certificates(folder, _config(directory, number or REFERENCE))


def read_certificates(folder: SweepTrialFolder, config: TrialConfig | None) -> CertificateTable:
    """Read a folder's certificates.

    Args:
        folder: of a trial that has a result.
        config: its settings, for tables of before they had records.

    Raises:
        InputError: a file is missing or broken.
    """
    table = CertificateTable.read_tsv(folder.certificates_path)
    if table.record is not None:
        return table
    return replace(table, record=recorded(folder, config))


def held_out_record(directory: SweepDirectory, number: int) -> CertificationRecord | None:
    """Return how a complete trial was measured on held-out images."""
    return recorded(directory.trial(number), _config(directory, number))


def recorded(folder: SweepTrialFolder, config: TrialConfig | None) -> CertificationRecord | None:
    """Return the record that a folder's settings and result make; None without them."""
    document = folder.read_result()
    if config is None or document is None:
        return None
    result = TrialResult.from_json(document)
    return result.record(config, last_estimation_samples(config.certification, result.split))


def _config(directory: SweepDirectory, number: int) -> TrialConfig | None:
    record = directory.trial(number).read_record() or directory.final(number).read_record()
    return None if record is None else record.config


# Who is compared, and by what: the tables of either's runs.
Key = TypeVar("Key", bound=Hashable)
Pair = tuple[Sequence[CertificateTable], Sequence[CertificateTable]]


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


def compare(pairs: Mapping[Key, Pair], radii: tuple[float, ...]) -> dict[Key, Comparisons]:
    """Compare the first of each pair with the second, by radius.

    The p-values are Holm-adjusted over all pairs and radii, so what is shown together is to be
    compared together. Tests of which no image tells the two apart do not count, for given which
    images do, they cannot reject (Tarone 1990, Biometrics 46(2)).

    Args:
        pairs: as many runs of either, all on the same images.
        radii: at which certified accuracies are compared.
    """
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
        difference = paired_difference(*both, runs=len(pairs[key][0]))
        comparisons[key] = {
            radius_key(radius): Comparison(
                points=float(difference.points[i]),
                low=float(difference.low[i]),
                high=float(difference.high[i]),
                p_value=float(p_values[key][i]),
                holm_p_value=float(adjusted[row, i]),
                runs=len(pairs[key][0]),
            )
            for i, radius in enumerate(radii)
        }
    return comparisons


def compare_with_both(
    runs: Mapping[int, Mapping[int, CertificateTable]],
    radii: tuple[float, ...],
    *,
    bare: CertificateTable | None,
) -> tuple[dict[int, Comparisons], dict[int, Comparisons]]:
    """Compare trials with trial 0 and with no denoiser, which are shown together.

    Args:
        runs: certificates by trial and seed; with trial 0, runs of the same seed are compared.
        radii: at which certified accuracies are compared.
        bare: certificates without a denoiser; None where there are none.
    """
    pairs: dict[tuple[bool, int], Pair] = {}
    reference = runs.get(REFERENCE, {})
    for number, by_seed in runs.items():
        shared = [seed for seed in by_seed if seed in reference]
        if number != REFERENCE and shared:
            theirs = [reference[seed] for seed in shared]
            pairs[True, number] = ([by_seed[seed] for seed in shared], theirs)
        if bare is not None and by_seed:
            pairs[False, number] = (list(by_seed.values()), [bare] * len(by_seed))
    compared = compare(pairs, radii)
    against_reference = {n: found for (with_trial_0, n), found in compared.items() if with_trial_0}
    against_undefended = {n: found for (with_0, n), found in compared.items() if not with_0}
    return against_reference, against_undefended


def differences(record: CertificationRecord | None, other: CertificationRecord | None) -> str:
    """Say in which settings certificates differ from those that they are compared with."""
    if record is None or other is None:
        return "settings unknown"
    return "; ".join(record.differences(other))


def _times_certified(
    tables: Sequence[CertificateTable], radii: tuple[float, ...]
) -> NDArray[np.int64]:
    times: NDArray[np.int64] = np.sum(
        [
            certified_correct(table.predict, table.radius, table.label, np.asarray(radii))
            for table in tables
        ],
        axis=0,
        dtype=np.int64,
    )
    return times
