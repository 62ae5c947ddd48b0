"""Reports of sweeps: their certified denoisers as tables beside published numbers, and a plot."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from decrop.errors import InputError
from decrop.evaluation.accuracy import average_certified_radius, certified_correct, exact_interval
from decrop.evaluation.plots import certified_accuracy_figure
from decrop.evaluation.table import CertificateTable
from decrop.files import write_text, write_whole
from decrop.result import radius_key
from tune.directory import SweepDirectory, TrialRecord
from tune.leaderboard import REFERENCE, Comparison, compare, read_certificates
from tune.published import PublishedTable, published_table
from tune.tables import TextTable, latex_text, percentage_cell

_UNDEFENDED = "no denoiser"

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
    """

    name: str
    description: str
    radii: tuple[float, ...]
    rows: Mapping[str, Runs]
    undefended: CertificateTable | None
    reference: str | None
    published: PublishedTable


def read_report(directory: SweepDirectory) -> SweepReport:
    """Read all that a sweep has certified on the test split, finished or not.

    Raises:
        InputError: nothing is certified yet, or a file is broken.
    """
    sweep = directory.read_record().sweep
    repeated = sweep.get("seeds", 1) != 1
    rows: dict[str, dict[int, CertificateTable]] = {}
    reference, radii = None, None
    for number in directory.final_numbers():
        folder = directory.final(number)
        record = folder.read_record()
        if record is None or not folder.result_path.exists():
            continue
        name = record.row or record.name
        seed = record.config.seed if repeated else 0
        rows.setdefault(name, {})[seed] = read_certificates(folder)
        if record.reference:
            reference = name
        if record.reference or radii is None:
            radii = record.config.certification.radii
    if radii is None:
        raise InputError(
            f"{directory.path} has nothing certified yet; let the sweep end, or go on with "
            f"`decrop resume {directory.path}`."
        )
    order = list(_mapping(sweep.get("rows")))
    name = directory.read_record().name
    undefended = directory.undefended
    return SweepReport(
        name=name,
        description=str(sweep.get("description") or ""),
        radii=radii,
        rows=dict(sorted(rows.items(), key=lambda row: order.index(row[0]) if order else 0)),
        undefended=read_certificates(undefended) if undefended.result_path.exists() else None,
        reference=reference,
        published=published_table(name),
    )
