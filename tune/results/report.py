"""Reports of sweeps: their certified denoisers as tables beside published numbers, and a plot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field

from decrop.config import CertificationSettings, NonNegative, Settings, Word
from decrop.config.settings import MOST_RADII
from decrop.config.trial import Part
from decrop.documents import read_yaml, validated
from decrop.errors import InputError
from decrop.evaluation.escaping import latex_text, markdown_text
from decrop.evaluation.plots import certificates_figure
from decrop.evaluation.table import CertificateTable
from decrop.files import write_text
from decrop.trial.folder import save_figure
from decrop.trial.result import radius_key
from tune.directory import SweepDirectory
from tune.results.compare import Certified, require_same_images
from tune.results.paired import Row, compare, read_certificates, read_final
from tune.results.tables import (
    UNDEFENDED,
    TextTable,
    accuracy_cell,
    difference_table,
    mean_cell,
    radius_heads,
    with_remarks,
)
from tune.trust import resume_command

_Numbers = Annotated[tuple[NonNegative, ...], Field(max_length=MOST_RADII)]
_Rows = Annotated[dict[Word, _Numbers], Field(max_length=1_000)]


class Published(Settings):
    """Certified accuracies that the paper's authors report, in %, by sweep preset and row."""

    radii: _Numbers = Field(description="Of the values of each row.")
    tables: Annotated[dict[Word, _Rows], Field(max_length=1_000)]


@cache
def published() -> Published:
    """Read `published.yaml`."""
    file = files("tune") / "published.yaml"
    return validated(Published, read_yaml(file), source=str(file))


@dataclass(frozen=True)
class SweepReport:
    """What is certified of a sweep.

    Attributes:
        radii: at which certified accuracy is reported.
        rows: certificates on the test split, in the order of the sweep file, by seed where there
            are several; last without a denoiser, if that is certified.
        reference: the row that the others are compared to; None if it is not certified.
        kind: what is certified: denoiser, or classifier where no trial has one.
    """

    name: str
    description: str
    radii: tuple[float, ...]
    rows: Sequence[Row]
    reference: Row | None
    kind: str = "denoiser"


def read_report(directory: SweepDirectory) -> SweepReport:
    """Read all that a sweep has certified on the test split, finished or not."""
    record = directory.read_record()
    sweep = record.sweep
    found: dict[str, dict[int | None, CertificateTable]] = {name: {} for name in sweep.rows}
    radii: tuple[float, ...] = ()
    kinds: set[Part] = set()
    for number in directory.final_numbers():
        folder = directory.final(number)
        trial = folder.read_record()
        if trial is not None and folder.result_path.exists():
            seed = trial.config.seed if sweep.seeds > 1 else None
            runs = found.setdefault(trial.row or trial.name, {})
            runs[seed] = read_certificates(folder, trial.config)
            radii = trial.config.certification.radii
            kinds.add(trial.config.trains)
    rows = [Row(name, runs) for name, runs in found.items() if runs]
    if not rows:
        raise InputError(
            f"{directory.path} has nothing certified yet; let the sweep end, or go on with "
            f"`{resume_command(directory)}`."
        )
    reference = sweep.reference or next(iter(sweep.rows), "trial 0")
    compared = next((row for row in rows if row.name == reference), None)
    if directory.undefended.result_path.exists():
        rows.append(Row(UNDEFENDED, {None: read_final(directory, None)}))
    return SweepReport(
        name=record.name,
        description=sweep.description,
        radii=radii,
        rows=rows,
        reference=compared,
        kind="classifier" if kinds == {"classifier"} else "denoiser",
    )


def certificates_report(sources: Sequence[Certified]) -> SweepReport:
    """Return a report of certificates that are of no sweep; the first is the reference.

    Its radii are those of the first that tells them.
    """
    tables = {source.name: source.table for source in sources}
    if len(tables) < len(sources):
        raise InputError("several targets have the same name; name each with --method.")
    require_same_images(sources)
    told = [table.record for table in tables.values() if table.record is not None]
    rows = [Row(name, {None: table}) for name, table in tables.items()]
    return SweepReport(
        name="certificates",
        description="",
        radii=(told[0].certification if told else CertificationSettings()).radii,
        rows=rows,
        reference=rows[0],
        kind="",
    )


def report_markdown(reports: Sequence[SweepReport], figures: Sequence[str] = ()) -> str:
    """Write reports in Markdown, with the names of their figures where there are any."""
    sections = []
    for position, report in enumerate(reports):
        name = markdown_text(report.name)
        parts = [f"## {name}\n"]
        if report.description:
            parts.append(f"{markdown_text(report.description)}\n")
        parts += [table.markdown() for table in _tables(report)]
        parts += [
            f"![Certified accuracy of {name}]({file})\n"
            for file in figures[position : position + 1]
        ]
        sections.append("\n".join(parts))
    return "\n".join(sections)


def report_latex(reports: Sequence[SweepReport], figures: Sequence[str] = ()) -> str:
    """Write reports as sections in LaTeX, for the packages booktabs and graphicx."""
    sections = []
    for position, report in enumerate(reports):
        parts = [f"\\section*{{{latex_text(report.name)}}}\n"]
        if report.description:
            parts.append(f"{latex_text(report.description)}\n")
        parts += [table.latex() for table in _tables(report)]
        parts += [f"\\includegraphics{{{name}}}\n" for name in figures[position : position + 1]]
        sections.append("\n".join(parts))
    return "\n".join(sections)


def write_report(reports: Sequence[SweepReport], folder: Path) -> None:
    """Write report.md, report.tex and a figure of each sweep; what is there already is replaced."""
    figures = [f"certified_accuracy_{number}.png" for number in range(1, len(reports) + 1)]
    for report, name in zip(reports, figures, strict=True):
        save_figure(_figure(report), folder / name)
    write_text(folder / "report.md", report_markdown(reports, figures))
    write_text(folder / "report.tex", report_latex(reports, figures))


def _tables(report: SweepReport) -> list[TextTable]:
    yardstick = report.reference or report.rows[0]
    remarks = {row.name: row.measured_otherwise(yardstick) for row in report.rows}
    tables = [_accuracies(report, list(remarks.values()))]
    if report.reference is not None and len(report.rows) > 1:
        reference = report.reference
        others = {row.name: (row, reference) for row in report.rows if row is not reference}
        compared = compare(others, report.radii)
        tables.append(
            difference_table(
                f"“{reference.name}”",
                [(name, found, remarks[name]) for name, found in compared.items()],
                report.radii,
                head=report.kind,
            )
        )
    return tables


def _accuracies(report: SweepReport, remarks: Sequence[str]) -> TextTable:
    numbers = published()
    theirs: Mapping[str, Sequence[float]] = numbers.tables.get(report.name, {})
    caption = "Certified accuracy on test images in %, with exact 95 % intervals"
    if any(len(row.runs) > 1 for row in report.rows):
        caption += (
            ", or as mean ± standard deviation over trainings from several seeds, in brackets "
            "their number"
        )
    head = [report.kind, *radius_heads(report.radii), "average radius", "samples an image"]
    if theirs:
        head.append(f"published, r = {' / '.join(f'{radius:g}' for radius in numbers.radii)}")
    cells = [_cells(row, report.radii) for row in report.rows]
    if theirs:
        for row, line in zip(report.rows, cells, strict=True):
            line.append(" / ".join(f"{value:g}" for value in theirs.get(row.name, ())))
    table = TextTable(f"{caption}; average certified radius; noisy samples an image.", head, cells)
    return with_remarks(table, remarks)


def _cells(row: Row, radii: tuple[float, ...]) -> list[str]:
    accuracies, intervals = row.certified_accuracy(radii), row.intervals(radii)
    average = row.average_certified_radius()
    samples = [table.samples.mean() for table in row.tables if table.samples is not None]
    return [
        row.name,
        *(accuracy_cell(accuracies[key], intervals[key]) for key in map(radius_key, radii)),
        mean_cell(average, "{:.3f}") if len(average) > 1 else f"{average[0]:.3f}",
        f"{np.mean(samples):,.0f}" if samples else "",
    ]


def _figure(report: SweepReport) -> Figure:
    # One curve a run: the images of several runs are the same, which an interval cannot pool.
    curves = {
        row.name if len(row.runs) == 1 else f"{row.name} (seed {seed})": table
        for row in report.rows
        for seed, table in row.runs.items()
    }
    return certificates_figure(curves)
