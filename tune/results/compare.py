"""Certificates of several sources on the same images, each compared with the first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from decrop.bundle import read_certificates as read_bundle
from decrop.bundle.layout import CONFIG
from decrop.config import CertificationSettings
from decrop.errors import InputError
from decrop.evaluation.escaping import markdown_text
from decrop.evaluation.logs import read_log
from decrop.evaluation.plots import certificates_figure
from decrop.evaluation.sigma_tables import ENVELOPE, envelope_table
from decrop.evaluation.table import CertificateTable, Shares
from decrop.files import write_text
from decrop.trial.folder import save_figure
from decrop.trial.result import radius_key
from decrop.wording import times
from tune.directory import SweepDirectory
from tune.export import trial_number
from tune.results.metric import Metric
from tune.results.paired import Comparisons, Row, compare, read_final
from tune.results.ranking import ranking
from tune.results.tables import (
    SHARES_CAPTION,
    SHARES_HEADS,
    UNDEFENDED,
    TextTable,
    accuracy_cell,
    difference_sentence,
    difference_table,
    headline_radius,
    radius_heads,
    share_cells,
    with_remarks,
)

FIGURE, TEXT = "compare.png", "compare.md"
_NO_DENOISER = "undefended"


@dataclass(frozen=True, eq=False)
class Certified:
    """What one source certifies.

    Attributes:
        target: the source as it was given; empty of what is made of the others.
        pixel_values: of an image, channels x height x width; None if unknown.
    """

    target: str
    name: str
    table: CertificateTable
    pixel_values: int | None = None


@dataclass(frozen=True)
class ComparedRow:
    """One source beside the others.

    Attributes:
        name: unique among them.
        images: number of certified images.
        certified_accuracy: share of all images, by radius.
        intervals: exact 95 % intervals of the certified accuracies, by radius.
        average_certified_radius: in [0,1] pixels.
        shares: of images certified correct, misclassified, and neither.
        against_first: compared with the first, by radius; None for the first itself.
        measured_otherwise: settings in which it differs from the first; empty if in none.
    """

    name: str
    images: int
    certified_accuracy: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    average_certified_radius: float
    shares: Shares
    against_first: Comparisons | None
    measured_otherwise: str = ""


@dataclass(frozen=True)
class SideBySide:
    """Sources in the order in which they were given, and sentences that compare them.

    Attributes:
        radii: of the certified accuracies.
        pixel_values: of an image, where radii in other norms are to be shown.
    """

    radii: tuple[float, ...]
    rows: list[ComparedRow]
    summary: str
    pixel_values: int | None = None


def read_certified(target: str) -> Certified:
    """Read certificates on test images.

    Args:
        target: a bundle; a table of certificates, as `decrop certify` writes it, or a log of
            published code (`decrop.evaluation.logs`); or a sweep directory, of which the best trial
            that is certified is read, or with `:NUMBER`, `:ROW` or `:undefended` after it a trial,
            a row of a table, or no denoiser.
    """
    path = Path(target)
    if path.is_file():
        return Certified(target, path.name, read_log(path))
    if SweepDirectory(path).record_path.exists():
        return _of_sweep(target, path, "best")
    if (path / CONFIG).exists():
        _, result, table = read_bundle(path)
        return Certified(target, path.name, table, prod(result.image_shape))
    folder, separator, selector = target.rpartition(":")
    if not separator or not SweepDirectory(Path(folder)).record_path.exists():
        raise InputError(
            f"{target} is no sweep directory (with :TRIAL after it or without), no bundle and no "
            "file of certificates."
        )
    return _of_sweep(target, Path(folder), selector)


def renamed(sources: Sequence[Certified], names: Sequence[str]) -> list[Certified]:
    """Give sources the names of methods, one each in their order."""
    if len(names) != len(sources):
        raise InputError(
            f"--method is given {times(len(names))}, but there are {len(sources)} targets; give "
            "one name for each, in their order."
        )
    return [replace(source, name=name) for source, name in zip(sources, names, strict=True)]


def envelope_of(sources: Sequence[Certified]) -> Certified:
    """Return of each image the largest certificate of any source.

    It is what `ENVELOPE_MEANING` says, but for the failure probability: those of the sources add
    up.
    """
    require_same_images(sources)
    # Logs do not tell their sigma; their order stands for it.
    parts = {float(order): source.table for order, source in enumerate(sources, start=1)}
    return Certified("", ENVELOPE, envelope_table(parts, 1.0))


def place_side_by_side(
    sources: Sequence[Certified],
    radii: tuple[float, ...] | None = None,
    *,
    pixel_values: int | None = None,
) -> SideBySide:
    """Compare each source with the first, paired over the same images.

    The p-values are Holm-adjusted over the sources and radii. The radii are those of the first
    source that tells them, unless given. What was measured otherwise than the first is said of
    each. An envelope is made of the others, so it is not compared with them.

    Args:
        sources: two or more, of the same images.
        pixel_values: of an image, to show radii in other norms.
    """
    names = _unique_names(sources)
    require_same_images(sources)
    told = [source.table.record for source in sources if source.table.record is not None]
    radii = radii or (told[0].certification if told else CertificationSettings()).radii
    first, *others = (
        Row(name, {None: source.table}) for name, source in zip(names, sources, strict=True)
    )
    own = [row for row, source in zip(others, sources[1:], strict=True) if source.target]
    against = compare({row.name: (row, first) for row in own}, radii)
    otherwise = {row.name: row.measured_otherwise(first) for row in own}
    radius = headline_radius(radii, Metric())
    sentences = [
        difference_sentence(
            f"“{name}”", "certifies", f"“{first.name}”", compared[radius_key(radius)], radius
        )
        for name, compared in against.items()
    ]
    sentences += [
        f"“{name}” was measured otherwise: {remark}."
        for name, remark in otherwise.items()
        if remark
    ]
    if len(own) < len(others):
        sentences.append(
            "The envelope takes of each image the largest radius of any other row, whatever its "
            "class; the failure probabilities of these add up, and it is no certificate of one "
            "classifier."
        )
    return SideBySide(
        radii=radii,
        rows=[
            ComparedRow(
                name=row.name,
                images=len(row.tables[0].idx),
                certified_accuracy={k: v for k, (v,) in row.certified_accuracy(radii).items()},
                intervals=row.intervals(radii),
                average_certified_radius=row.average_certified_radius()[0],
                shares=row.tables[0].shares,
                against_first=against.get(row.name),
                measured_otherwise=otherwise.get(row.name, ""),
            )
            for row in (first, *others)
        ],
        summary=" ".join(sentences),
        pixel_values=pixel_values,
    )


def side_by_side_tables(board: SideBySide, *, decimals: int = 1) -> list[TextTable]:
    """Tabulate certified accuracies, and their differences to the first.

    `decimals` are of the ends of intervals in %.
    """
    accuracies = [
        [
            row.name,
            *(
                accuracy_cell([row.certified_accuracy[key]], row.intervals[key], decimals=decimals)
                for key in map(radius_key, board.radii)
            ),
            f"{row.average_certified_radius:.3f}",
            *share_cells(row.shares),
        ]
        for row in board.rows
    ]
    table = TextTable(
        f"Certified accuracy in %, with exact 95 % intervals, on the same {board.rows[0].images} "
        f"images; average certified radius; {SHARES_CAPTION}.",
        ["", *radius_heads(board.radii), "average radius", *SHARES_HEADS],
        accuracies,
    )
    differing = [
        (row.name, row.against_first, row.measured_otherwise)
        for row in board.rows
        if row.against_first is not None
    ]
    return [
        with_remarks(table, [row.measured_otherwise for row in board.rows]),
        *([] if board.pixel_values is None else [_norms_table(board, board.pixel_values)]),
        difference_table(f"“{board.rows[0].name}”", differing, board.radii),
    ]


def _norms_table(board: SideBySide, pixel_values: int) -> TextTable:
    """Tabulate certified accuracies over the radii in three norms.

    An L2 ball of radius r holds the L1 ball of radius r and the L-infinity ball of radius
    r / sqrt(d), for no point of these is further away (Salman et al. 2019, section 4).

    Args:
        pixel_values: d, of an image: channels x height x width.
    """
    return TextTable(
        "Certified accuracy in % by the radius of the certified L2 ball, and by those of the "
        f"largest L1 and L∞ balls in it, r and r / √d, with d = {pixel_values:,} pixel values in "
        "[0,1].",
        ["L2", "L1", "L∞", "L∞ × 255", *(row.name for row in board.rows)],
        [
            [
                f"{radius:g}",
                f"{radius:g}",
                f"{radius / pixel_values**0.5:.4g}",
                f"{255 * radius / pixel_values**0.5:.3g}",
                *(f"{100 * row.certified_accuracy[radius_key(radius)]:.1f}" for row in board.rows),
            ]
            for radius in board.radii
        ],
    )


def write_side_by_side(sources: Sequence[Certified], board: SideBySide, folder: Path) -> None:
    """Write `compare.png`, all curves with their intervals, and `compare.md`."""
    tables = {row.name: source.table for row, source in zip(board.rows, sources, strict=True)}
    save_figure(certificates_figure(tables), folder / FIGURE)
    parts = [table.markdown() for table in side_by_side_tables(board)]
    parts += [
        f"{markdown_text(board.summary)}\n",
        f"![Certified accuracy over the radius]({FIGURE})\n",
    ]
    write_text(folder / TEXT, "\n".join(parts))


def _unique_names(sources: Sequence[Certified]) -> list[str]:
    """Return short names, or what was given where a short one stands for several."""
    if len(sources) < 2:
        raise InputError("compare needs two targets or more; give another one.")
    targets = [source.target or source.name for source in sources]
    for target in targets:
        if targets.count(target) > 1:
            raise InputError(f"{target}: was given twice; give it once.")
    names = [source.name for source in sources]
    return [
        name if names.count(name) == 1 else target
        for name, target in zip(names, targets, strict=True)
    ]


def _of_sweep(target: str, path: Path, selector: str) -> Certified:
    directory = SweepDirectory.open(path)
    if selector == _NO_DENOISER:
        number, folder, name = None, directory.undefended, UNDEFENDED
    else:
        best = _certified_trial(directory) if selector == "best" else None
        number = trial_number(directory, selector, source=target) if best is None else best
        folder = directory.final(number)
        record = folder.read_record()
        name = f"trial {number}" if record is None else record.name
    if (result := folder.result) is None:
        certified = ", ".join(map(str, directory.final_numbers())) or "none"
        raise InputError(
            f"{target}: {name} is not certified on test images; certified trials are {certified}."
        )
    table = read_final(directory, number)
    return Certified(target, f"{path.resolve().name}: {name}", table, prod(result.image_shape))


def _certified_trial(directory: SweepDirectory) -> int | None:
    ranked = ranking(directory)
    return next((n for n in ranked if directory.final(n).result_path.exists()), None)


def require_same_images(sources: Sequence[Certified]) -> None:
    """Refuse certificates of other images than the first source's."""
    for other in sources[1:]:
        _check_same_images(sources[0], other)


def _check_same_images(first: Certified, other: Certified) -> None:
    ours, theirs = first.table.record, other.table.record
    same_rows = np.array_equal(first.table.idx, other.table.idx) and np.array_equal(
        first.table.label, other.table.label
    )
    if not same_rows or (ours and theirs and not ours.of_the_same_images(theirs)):
        raise InputError(
            f"{first.target} and {other.target} are not certified on the same images; certify one "
            "on those of the other with `decrop certify`."
        )
