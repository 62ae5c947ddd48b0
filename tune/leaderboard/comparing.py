"""Compare certified accuracies, paired over images."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from decrop.evaluation.accuracy import certified_correct
from decrop.evaluation.comparison import holm_adjusted, paired_difference, paired_p_values
from decrop.evaluation.table import CertificateTable
from decrop.result import radius_key

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
        holm_p_value: the same, adjusted for all that are compared with the same opponent.
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

    The p-values of one radius are Holm-adjusted over all pairs.

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
    adjusted = np.stack(
        [holm_adjusted(column) for column in np.stack(list(p_values.values())).T], axis=1
    )
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
