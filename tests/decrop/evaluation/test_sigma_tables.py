"""Tables at several sigmas: where they lie, and the rows of their envelope."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from decrop.errors import InputError
from decrop.evaluation.plots import certificates_figure
from decrop.evaluation.sigma_tables import SigmaTables, envelope_record, envelope_table
from decrop.evaluation.table import CertificateTable
from tests.decrop.evaluation.test_record import record

SIGMAS = (0.12, 0.25, 0.5)


def table(sigma: float, predict: list[int], radius: list[float]) -> CertificateTable:
    images = len(predict)
    return CertificateTable(
        idx=np.arange(images),
        label=np.full(images, 3),
        predict=np.array(predict),
        radius=np.array(radius),
        seconds=np.full(images, 0.5),
        samples=np.full(images, 100),
        ending=np.array([f"at {sigma}"] * images),
        selected=np.where(np.array(predict) < 0, 9, predict),
        record=record(sigma=sigma),
    )


@pytest.fixture
def tables() -> SigmaTables:
    by_sigma = {
        0.12: table(0.12, [3, 3, -1, 3], [0.1, 0.2, 0.0, 0.3]),
        0.25: table(0.25, [3, 3, -1, -1], [0.3, 0.2, 0.0, 0.0]),
        0.5: table(0.5, [3, -1, -1, 5], [0.2, 0.0, 0.0, 0.6]),
    }
    envelope = envelope_table(by_sigma, 0.25)
    return SigmaTables(by_sigma, replace(envelope, record=envelope_record(record(), SIGMAS)))


def test_the_envelope_has_the_row_of_the_largest_radius(tables: SigmaTables) -> None:
    envelope = tables.envelope
    assert envelope.sigma is not None and envelope.ending is not None
    assert envelope.samples is not None and envelope.selected is not None
    # The first of equal ones; a wrong class where it is the surest.
    assert envelope.sigma.tolist() == [0.25, 0.12, 0.0, 0.5]
    assert envelope.predict.tolist() == [3, 3, -1, 5]
    assert envelope.radius.tolist() == [0.3, 0.2, 0.0, 0.6]
    assert envelope.ending.tolist() == ["at 0.25", "at 0.12", "at 0.25", "at 0.5"]
    assert envelope.selected.tolist() == [3, 3, 9, 5]
    assert envelope.samples.tolist() == [300] * 4
    assert envelope.seconds.tolist() == [1.5] * 4


def test_tables_are_written_beside_the_own_one_and_read_back(
    tables: SigmaTables, tmp_path: Path
) -> None:
    path = tmp_path / "certificates.tsv"
    tables.by_sigma[0.25].write(path)
    tables.write(path, 0.25)
    names = [
        "certificates.tsv",
        "certificates_envelope.tsv",
        "certificates_sigma_0.12.tsv",
        "certificates_sigma_0.5.tsv",
    ]
    assert sorted(p.name for p in tmp_path.glob("*.tsv")) == names
    found = SigmaTables.read(path, 0.25, SIGMAS)
    assert list(found.named()) == ["σ = 0.12", "σ = 0.25", "σ = 0.5", "envelope"]
    for name, read in found.named().items():
        written = tables.named()[name]
        assert read.record == written.record
        for column in ("predict", "radius", "samples", "selected", "seconds"):
            assert np.array_equal(getattr(read, column), getattr(written, column))
    assert found.envelope.sigma is not None
    assert found.envelope.sigma.tolist() == [0.25, 0.12, 0.0, 0.5]
    assert found.by_sigma[0.12].sigma is None


def test_a_wrong_column_of_sigmas_is_refused(tables: SigmaTables, tmp_path: Path) -> None:
    path = tmp_path / "envelope.tsv"
    tables.envelope.write_tsv(path)
    path.write_text(path.read_text().replace("0.25\n", "-0.25\n"))
    with pytest.raises(InputError, match="column sigma"):
        CertificateTable.read_tsv(path)


def test_records_tell_an_envelope_from_ordinary_certificates(tables: SigmaTables) -> None:
    envelope, own = tables.envelope.record, tables.by_sigma[0.25].record
    assert envelope is not None and own is not None
    assert envelope.differences(own) == ["sigmas [0.12, 0.25, 0.5], not one alone"]
    assert "the best sigma of each among 0.12, 0.25, 0.5" in envelope.guarantee()
    assert "sigmas" not in own.model_dump(mode="json")["certification"]


def test_the_envelope_lies_behind_the_curves_that_it_follows(tables: SigmaTables) -> None:
    (axes,) = certificates_figure(tables.named()).axes
    *curves, envelope = axes.lines
    assert envelope.get_label() == "envelope"
    assert envelope.get_linewidth() > max(curve.get_linewidth() for curve in curves)
    assert envelope.get_zorder() < min(curve.get_zorder() for curve in curves)
    assert len(axes.collections) == len(curves)
