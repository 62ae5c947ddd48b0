"""Reports of sweeps: their certified denoisers as tables beside published numbers, and a plot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from decrop.errors import InputError
from decrop.evaluation.accuracy import average_certified_radius, certified_correct, exact_interval
from decrop.evaluation.plots import certified_accuracy_figure
from decrop.evaluation.table import CertificateTable
from decrop.files import write_text, write_whole
from decrop.trial.result import radius_key
from tune.directory import SweepDirectory
from tune.results.paired import compare, differences, read_certificates, read_final
from tune.results.published import PublishedTable, published_table
from tune.results.tables import TextTable, latex_text, mean_cell, percentage_cell, with_remarks
from tune.results.wording import UNDEFENDED, difference_cell

# Certificates of the trials of one row, by seed; of a single trial by 0, whatever its seed.
Runs = Mapping[int, CertificateTable]


@dataclass(frozen=True)
class SweepReport:
    """What is certified of a sweep.

    Attributes:
        name: of the sweep.
        description: in its file.
        radii: at which certified accuracy is reported.
        rows: certificates on the test split, by name, in the order of the sweep file.
        undefended: certificates without a denoiser; None if they are not there yet.
        reference: the row that the others are compared to; None if it is not certified.
        published: numbers of the same table.
        kind: what is certified: denoiser, or classifier where no trial has one.
    """

    name: str
    description: str
    radii: tuple[float, ...]
    rows: Mapping[str, Runs]
    undefended: CertificateTable | None
    reference: str | None
    published: PublishedTable
    kind: str = "denoiser"


def read_report(directory: SweepDirectory) -> SweepReport:
    """Read all that a sweep has certified on the test split, finished or not.

    Raises:
        InputError: nothing is certified yet, or a file is broken.
    """
    record = directory.read_record()
    sweep = record.sweep
    rows: dict[str, dict[int, CertificateTable]] = {name: {} for name in sweep.rows}
    reference = sweep.reference or next(iter(sweep.rows), "trial 0")
    radii: tuple[float, ...] = ()
    without_denoiser = []
    for number in directory.final_numbers():
        folder = directory.final(number)
        trial = folder.read_record()
        if trial is not None and folder.result_path.exists():
            seed = trial.config.seed if sweep.seeds > 1 else 0
            table = read_certificates(folder, trial.config)
            rows.setdefault(trial.row or trial.name, {})[seed] = table
            radii = trial.config.certification.radii
            without_denoiser.append(trial.config.trains_classifier)
    certified = {name: runs for name, runs in rows.items() if runs}
    if not certified:
        raise InputError(
            f"{directory.path} has nothing certified yet; let the sweep end, or go on with "
            f"`decrop resume {directory.path}`."
        )
    undefended = directory.undefended
    return SweepReport(
        name=record.name,
        description=sweep.description,
        radii=radii,
        rows=certified,
        undefended=read_final(directory, None) if undefended.result_path.exists() else None,
        reference=reference if reference in certified else None,
        published=published_table(record.name),
        kind="classifier" if all(without_denoiser) else "denoiser",
    )


def report_markdown(reports: Sequence[SweepReport], figures: Sequence[str] = ()) -> str:
    """Write reports in Markdown, with the names of their figures where there are any."""
    sections = []
    for position, report in enumerate(reports):
        parts = [f"## {report.name}\n"]
        if report.description:
            parts.append(f"{report.description}\n")
        parts += [table.markdown() for table in _tables(report)]
        alternative = f"Certified accuracy of {report.name}"
        parts += [f"![{alternative}]({name})\n" for name in figures[position : position + 1]]
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
        figure = _figure(report)
        # The name while it is written does not end in .png.
        write_whole(folder / name, lambda path, figure=figure: figure.savefig(path, format="png"))  # type: ignore[misc]
    write_text(folder / "report.md", report_markdown(reports, figures))
    write_text(folder / "report.tex", report_latex(reports, figures))


def _tables(report: SweepReport) -> list[TextTable]:
    tables = [_accuracies(report)]
    if report.reference is not None and len(_all_rows(report)) > 1:
        tables.append(_differences(report, report.reference))
    return tables


def _accuracies(report: SweepReport) -> TextTable:
    published = report.published
    caption = "Certified accuracy on test images in %, with exact 95 % intervals"
    if any(len(runs) > 1 for runs in report.rows.values()):
        caption += (
            ", or as mean ± standard deviation over trainings from several seeds, in brackets "
            "their number"
        )
    caption += "; average certified radius; noisy samples an image."
    head = [report.kind, *(f"r = {radius:g}" for radius in report.radii), "average radius"]
    head.append("samples an image")
    if published.rows:
        head.append(f"published, r = {' / '.join(f'{radius:g}' for radius in published.radii)}")
    rows = []
    for name, runs in _all_rows(report).items():
        tables = list(runs.values())
        cells = [name, *_accuracy_cells(tables, report.radii), _radius_cell(tables)]
        cells.append(_samples_cell(tables))
        if published.rows:
            cells.append(" / ".join(f"{value:g}" for value in published.rows.get(name, ())))
        rows.append(cells)
    return with_remarks(TextTable(caption, head, rows), _remarks(report, list(_all_rows(report))))


def _remarks(report: SweepReport, names: Sequence[str]) -> list[str]:
    """Say how rows were measured otherwise than the reference, or than the first."""
    rows = _all_rows(report)
    yardstick = next(iter(rows[report.reference or next(iter(rows))].values())).record
    return [differences(next(iter(rows[name].values())).record, yardstick) for name in names]


def _differences(report: SweepReport, reference: str) -> TextTable:
    theirs = report.rows[reference]
    pairs = {}
    for name, runs in report.rows.items():
        seeds = [seed for seed in runs if seed in theirs]
        if name != reference and seeds:
            pairs[name] = ([runs[seed] for seed in seeds], [theirs[seed] for seed in seeds])
    if report.undefended is not None:
        pairs[UNDEFENDED] = ([report.undefended] * len(theirs), list(theirs.values()))
    caption = (
        f"Difference of certified accuracy to “{reference}” in points, with 95 % intervals "
        "(Bonett and Price); p of the exact paired test over images (McNemar's for single runs), "
        "Holm-adjusted over all rows and radii of the table."
    )
    head = [report.kind, *(f"r = {radius:g}" for radius in report.radii)]
    rows = [
        [name, *(difference_cell(by_radius[radius_key(radius)]) for radius in report.radii)]
        for name, by_radius in compare(pairs, report.radii).items()
    ]
    return with_remarks(TextTable(caption, head, rows), _remarks(report, list(pairs)))


def _all_rows(report: SweepReport) -> dict[str, Runs]:
    if report.undefended is None:
        return dict(report.rows)
    return {**report.rows, UNDEFENDED: {0: report.undefended}}


def _accuracy_cells(tables: Sequence[CertificateTable], radii: tuple[float, ...]) -> list[str]:
    certified = np.stack(
        [certified_correct(t.predict, t.radius, t.label, np.asarray(radii)) for t in tables]
    )
    if len(tables) > 1:
        return [mean_cell(100 * column, "{:.1f}") for column in certified.mean(axis=2).T]
    successes, images = certified[0].sum(axis=1), certified.shape[2]
    low, high = exact_interval(successes, images)
    return [percentage_cell(*row) for row in zip(successes / images, low, high, strict=True)]


def _radius_cell(tables: Sequence[CertificateTable]) -> str:
    radii = np.array([average_certified_radius(t.predict, t.radius, t.label) for t in tables])
    return mean_cell(radii, "{:.3f}") if len(tables) > 1 else f"{radii[0]:.3f}"


def _samples_cell(tables: Sequence[CertificateTable]) -> str:
    means = [table.samples.mean() for table in tables if table.samples is not None]
    return f"{np.mean(means):,.0f}" if means else ""


def _figure(report: SweepReport) -> Figure:
    # One curve a run: the images of several runs are the same, which an interval cannot pool.
    curves = {
        name if len(runs) == 1 else f"{name} (seed {seed})": table
        for name, runs in _all_rows(report).items()
        for seed, table in runs.items()
    }
    largest = max(float(table.radius.max()) for table in curves.values())
    return certified_accuracy_figure(
        {name: (table.predict, table.radius, table.label) for name, table in curves.items()},
        max(largest, *report.radii, 0.05),
    )
