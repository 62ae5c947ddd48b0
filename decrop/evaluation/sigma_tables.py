"""Certificates of the same images at several noise levels, and the table of their envelope."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from decrop.evaluation.record import CertificationRecord
from decrop.evaluation.table import CertificateTable
from decrop.smoothing.envelope import largest_certificates

ENVELOPE = "envelope"
# What a user must know of the envelope, wherever it is shown.
ENVELOPE_MEANING = (
    "envelope: of each image the largest radius at any σ, whatever its class, with the failure "
    "probability split over the σ; it holds for the smoothed classifier at the σ of that image, "
    "not for one classifier that chooses σ by the image"
)


@dataclass(frozen=True)
class SigmaTables:
    """Tables of the same images at several standard deviations of the noise.

    Attributes:
        by_sigma: ordinary certificates at each, which increase, each at the whole failure
            probability.
        envelope: of each image the certificate of the largest radius among others of the same
            samples, at equal parts of the failure probability (`decrop.smoothing.envelope`); its
            column `sigma` says at which.
    """

    by_sigma: Mapping[float, CertificateTable]
    envelope: CertificateTable

    def named(self) -> dict[str, CertificateTable]:
        """Return all tables by what figures and terminals call them."""
        return dict(
            zip(_names(self.by_sigma), [*self.by_sigma.values(), self.envelope], strict=True)
        )

    def write(self, path: Path, sigma: float) -> None:
        """Write the tables beside that of the trial's own sigma, which is in `path` already."""
        paths = self.paths(path, sigma)
        for name, table in self.named().items():
            if paths[name] != path:
                table.write(paths[name])

    def paths(self, path: Path, sigma: float) -> dict[str, Path]:
        """Return where each table of `named` lies; arguments as of `write`."""
        return sigma_table_paths(path, sigma, tuple(self.by_sigma))

    @classmethod
    def read(cls, path: Path, sigma: float, sigmas: tuple[float, ...]) -> Self:
        """Read the tables that `write` wrote, and that in `path`.

        Args:
            sigma: the trial's own.
            sigmas: of all tables, increasing.
        """
        *tables, envelope = map(
            CertificateTable.read_tsv, sigma_table_paths(path, sigma, sigmas).values()
        )
        return cls(dict(zip(sigmas, tables, strict=True)), envelope)


def sigma_table_paths(path: Path, sigma: float, sigmas: tuple[float, ...]) -> dict[str, Path]:
    """Return where the tables of several sigmas lie, by the names of `SigmaTables.named`.

    Args:
        sigma: the trial's own.
        sigmas: of all tables, increasing.
    """
    stem = path.stem.removesuffix(named_sigma(sigma))
    tables = [
        path if own == sigma else path.with_name(f"{stem}{named_sigma(own)}{path.suffix}")
        for own in sigmas
    ]
    envelope = envelope_path(path.with_name(f"{stem}{path.suffix}"))
    return dict(zip(_names(sigmas), [*tables, envelope], strict=True))


def envelope_path(path: Path) -> Path:
    """Return where the table of the envelope lies, beside one whose name has no sigma."""
    return path.with_name(f"{path.stem}_{ENVELOPE}{path.suffix}")


def named_sigma(sigma: float) -> str:
    """Return what names a sigma at the end of a table's stem."""
    return f"_sigma_{sigma!r}"


def _names(sigmas: Iterable[float]) -> list[str]:
    return [*(f"σ = {sigma!r}" for sigma in sigmas), ENVELOPE]


def envelope_record(record: CertificationRecord, sigmas: tuple[float, ...]) -> CertificationRecord:
    """Return the record of an envelope from that of the trial's own sigma."""
    certification = record.certification.model_copy(update={"sigmas": sigmas})
    return record.model_copy(update={"certification": certification})


def envelope_table(parts: Mapping[float, CertificateTable], sigma: float) -> CertificateTable:
    """Return the table of an envelope, without a record.

    Args:
        parts: tables of the same images by sigma, each at its part of the failure probability.
        sigma: the trial's own, whose rows stand for images that abstain at every sigma.

    Returns:
        of each image the row of the largest radius; samples and seconds are those of all sigmas,
        and `sigma` is that of the row, 0 on abstention.
    """
    sigmas, tables = list(parts), list(parts.values())
    largest = largest_certificates([(table.predict, table.radius) for table in tables])
    rows = np.where(largest < 0, sigmas.index(sigma), largest)

    def chosen(name: str) -> Any:
        columns = [getattr(table, name) for table in tables]
        if any(column is None for column in columns):
            return None
        return np.take_along_axis(np.stack(columns), rows[None], axis=0)[0]

    samples = [table.samples for table in tables if table.samples is not None]
    return replace(
        tables[0],
        predict=chosen("predict"),
        radius=chosen("radius"),
        seconds=np.sum([table.seconds for table in tables], axis=0),
        samples=np.sum(samples, axis=0) if len(samples) == len(tables) else None,
        ending=chosen("ending"),
        selected=chosen("selected"),
        sigma=np.where(largest < 0, 0.0, np.array(sigmas)[rows]),
        record=None,
    )
