"""Rank trials by their held-out score, and compare the certified few on the test split."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from decrop.evaluation.accuracy import certified_correct, exact_interval
from decrop.evaluation.comparison import holm_adjusted, paired_difference, paired_p_values
from decrop.evaluation.plots import certificates_figure
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json, write_json, write_text
from decrop.result import TrialResult, radius_key
from decrop.trial_files import save_figure
from tune.directory import SweepDirectory, SweepTrialFolder
from tune.tables import TextTable, percentage_cell

REFERENCE = 0

# Who is compared, and by what: the tables of either's runs.
Key = TypeVar("Key", bound=Hashable)
Pair = tuple[Sequence[CertificateTable], Sequence[CertificateTable]]


@dataclass(frozen=True)
class Comparison:
    """A denoiser against another, at one radius, on the same test images.

    Attributes:
        points: difference of certified accuracies in percentage points.
        low: of its 95 % interval (Bonett and Price 2012).
        high: of its 95 % interval.
        p_value: exact paired test, McNemar's where each has one run.
        holm_p_value: the same, adjusted for all comparisons of the leaderboard with this opponent.
    """

    points: float
    low: float
    high: float
    p_value: float
    holm_p_value: float


@dataclass(frozen=True)
class Entry:
    """One row of the leaderboard.

    Attributes:
        number: of the trial; None for the undefended classifier.
        rank: by held-out score among complete trials; None for the undefended classifier.
        held_out_radius: average certified radius on held-out images, by which trials are ranked.
        result: on the test split.
        intervals: exact 95 % intervals of the certified accuracies, by radius.
        against_reference: compared with trial 0, by radius.
        against_undefended: compared with no denoiser, by radius.
        name: of the trial's row, where the sweep is a table.
    """

    number: int | None
    rank: int | None
    held_out_radius: float | None
    result: dict[str, Any]
    intervals: dict[str, tuple[float, float]]
    against_reference: dict[str, Comparison] | None
    against_undefended: dict[str, Comparison] | None
    name: str | None = None


@dataclass(frozen=True)
class Leaderboard:
    """The outcome of a sweep: entries by rank, then the undefended classifier."""

    radii: tuple[float, ...]
    entries: list[Entry]
    undefended: Entry
    summary: str

    @property
    def best(self) -> Entry:
        """Rank 1 by held-out score among the certified, whatever the test split shows."""
        return self.entries[0]

    @property
    def reference(self) -> Entry | None:
        """Trial 0, the paper's choice or a table's reference; None if it failed."""
        return next((entry for entry in self.entries if entry.number == REFERENCE), None)


def ranking(directory: SweepDirectory) -> list[tuple[int, float]]:
    """Return number and held-out average certified radius of the complete trials, best first."""
    scores = []
    for number in directory.trial_numbers():
        folder = directory.trial(number)
        state, result = folder.read_state(), folder.read_result()
        if state is not None and state.state == "complete" and result is not None:
            scores.append((number, float(result["average_certified_radius"])))
    return sorted(scores, key=lambda score: (-score[1], score[0]))


def chosen(scores: list[tuple[int, float]], top: int) -> list[int]:
    """Return the trials to certify on test: the `top` best held-out scores, and trial 0."""
    numbers = [number for number, _ in scores]
    first = numbers[:top]
    return [*first, REFERENCE] if REFERENCE in numbers[top:] else first


def build_leaderboard(directory: SweepDirectory, radii: tuple[float, ...]) -> Leaderboard:
    """Compare the trials that were certified on the test split.

    Every comparison is paired over the same images; p-values of one radius are Holm-adjusted over
    the trials compared with the same opponent.
    """
    scores = ranking(directory)
    rank = {number: position for position, (number, _) in enumerate(scores, start=1)}
    held_out = dict(scores)
    numbers = [n for n in rank if directory.final(n).result_path.exists()]
    tables = {n: read_certificates(directory.final(n)) for n in numbers}
    bare = read_certificates(directory.undefended)
    reference = tables.get(REFERENCE)
    against_reference = {}
    if reference is not None:
        others = {n: ([table], [reference]) for n, table in tables.items() if n != REFERENCE}
        against_reference = compare(others, radii)
    against_undefended = compare({n: ([table], [bare]) for n, table in tables.items()}, radii)
    entries = [
        _entry(
            directory.final(number),
            radii,
            number=number,
            rank=rank[number],
            held_out_radius=held_out[number],
            against_reference=against_reference.get(number),
            against_undefended=against_undefended[number],
            name=_row_name(directory, number),
        )
        for number in numbers
    ]
    return Leaderboard(
        radii=radii,
        entries=entries,
        undefended=_entry(directory.undefended, radii),
        summary=_summary(entries[0], radii),
    )


def write_leaderboard(directory: SweepDirectory, leaderboard: Leaderboard) -> None:
    """Write a figure of all rows, `leaderboard.md` and, last, `leaderboard.json`."""
    folders = {
        entry_name(entry): directory.undefended
        if entry.number is None
        else directory.final(entry.number)
        for entry in [*leaderboard.entries, leaderboard.undefended]
    }
    figure = certificates_figure(
        {name: read_certificates(folder) for name, folder in folders.items()}
    )
    save_figure(figure, directory.accuracy_figure_path)
    write_text(directory.leaderboard_markdown_path, markdown(leaderboard))
    write_json(directory.leaderboard_json_path, asdict(leaderboard))


def read_leaderboard(directory: SweepDirectory) -> Leaderboard | None:
    """Read the leaderboard, None if the sweep has not come so far."""
    if not directory.leaderboard_json_path.exists():
        return None
    document = read_json(directory.leaderboard_json_path)
    return Leaderboard(
        radii=tuple(document["radii"]),
        entries=[_entry_from(row) for row in document["entries"]],
        undefended=_entry_from(document["undefended"]),
        summary=document["summary"],
    )


def markdown(leaderboard: Leaderboard) -> str:
    """Write the leaderboard as a Markdown table."""
    radii = [radius_key(radius) for radius in leaderboard.radii]
    head = ["rank", "denoiser", "average radius, held out"]
    head += [f"r = {radius}" for radius in radii]
    rows = []
    for entry in [*leaderboard.entries, leaderboard.undefended]:
        held_out = "" if entry.held_out_radius is None else f"{entry.held_out_radius:.3f}"
        cells = [str(entry.rank or ""), entry_name(entry), held_out]
        for radius in radii:
            accuracy = entry.result["certified_accuracy"][radius]
            cells.append(percentage_cell(accuracy, *entry.intervals[radius]))
        rows.append(cells)
    caption = "Certified accuracy on test images in %, with exact 95 % intervals."
    return f"{TextTable(caption, head, rows).markdown()}\n{leaderboard.summary}\n"


def entry_name(entry: Entry) -> str:
    """Name a row: a trial, the paper's choice, a row of a table, or no denoiser."""
    if entry.number is None:
        return "no denoiser"
    if entry.name is not None:
        return entry.name + (" (reference)" if entry.number == REFERENCE else "")
    return f"trial {entry.number}" + (" (paper's choice)" if entry.number == REFERENCE else "")


def read_certificates(folder: SweepTrialFolder) -> CertificateTable:
    """Read a folder's certificates (see `CertificateTable.read_tsv`)."""
    return CertificateTable.read_tsv(folder.certificates_path)


def _row_name(directory: SweepDirectory, number: int) -> str | None:
    record = directory.trial(number).read_record()
    return None if record is None or record.row is None else record.name


def compare(
    pairs: Mapping[Key, Pair], radii: tuple[float, ...]
) -> dict[Key, dict[str, Comparison]]:
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


def _entry(
    folder: SweepTrialFolder,
    radii: tuple[float, ...],
    *,
    number: int | None = None,
    rank: int | None = None,
    held_out_radius: float | None = None,
    against_reference: dict[str, Comparison] | None = None,
    against_undefended: dict[str, Comparison] | None = None,
    name: str | None = None,
) -> Entry:
    document = read_json(folder.result_path)
    scores = TrialResult.from_json(document).scores
    intervals = {
        radius_key(radius): exact_interval(
            round(scores.certified_accuracy[radius_key(radius)] * scores.images), scores.images
        )
        for radius in radii
    }
    return Entry(
        number=number,
        rank=rank,
        held_out_radius=held_out_radius,
        result=document,
        intervals={radius: (float(low), float(high)) for radius, (low, high) in intervals.items()},
        against_reference=against_reference,
        against_undefended=against_undefended,
        name=name,
    )


def _entry_from(document: dict[str, Any]) -> Entry:
    def comparisons(rows: dict[str, Any] | None) -> dict[str, Comparison] | None:
        return None if rows is None else {r: Comparison(**row) for r, row in rows.items()}

    return Entry(
        number=document["number"],
        rank=document["rank"],
        held_out_radius=document["held_out_radius"],
        result=document["result"],
        intervals={radius: (low, high) for radius, (low, high) in document["intervals"].items()},
        against_reference=comparisons(document["against_reference"]),
        against_undefended=comparisons(document["against_undefended"]),
        name=document.get("name"),
    )


def _summary(best: Entry, radii: tuple[float, ...]) -> str:
    # The smallest radius above 0 that is reported: the first at which robustness is certified.
    radius = next((r for r in radii if r > 0), radii[0])
    sentences = []
    if best.against_undefended is not None:
        sentences.append(_sentence(best, "no denoiser", best.against_undefended, radius))
    if best.against_reference is not None:
        sentences.append(
            _sentence(
                best,
                "the reference"
                if best.name is not None
                else "the denoiser with the paper's choice",
                best.against_reference,
                radius,
            )
        )
    elif best.name is not None:
        sentences.append("It is the reference.")
    elif best.number == REFERENCE:
        sentences.append("The search found nothing better than the paper's choice.")
    return " ".join(sentences)


def _sentence(best: Entry, opponent: str, comparisons: dict[str, Comparison], radius: float) -> str:
    comparison = comparisons[radius_key(radius)]
    name = f"trial {best.number}" if best.name is None else f"“{best.name}”"
    if comparison.holm_p_value >= 0.05:
        return (
            f"The difference of {name}'s denoiser to {opponent} at r = {radius:g} is "
            f"within noise ({comparison.points:+.1f} points, p = {comparison.holm_p_value:.2g})."
        )
    direction = "more" if comparison.points > 0 else "fewer"
    return (
        f"{name[0].upper()}{name[1:]}'s denoiser certifies {abs(comparison.points):.1f} points "
        f"{direction} than {opponent} at r = {radius:g} (p = {comparison.holm_p_value:.2g})."
    )
