"""Certificates of a sweep, with the records of how they were computed."""

from dataclasses import replace

from decrop.certification import last_estimation_samples
from decrop.config import TrialConfig
from decrop.evaluation.record import CertificationRecord
from decrop.evaluation.table import CertificateTable
from decrop.result import TrialResult
from tune.directory import SweepDirectory, SweepTrialFolder
from tune.leaderboard.ranking import REFERENCE


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
