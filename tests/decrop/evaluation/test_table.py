from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from decrop.errors import InputError
from decrop.evaluation.accuracy import certified_accuracy
from decrop.evaluation.table import CertificateTable
from tests.cases import cases

HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
# From the published results of Cohen et al. (2019), CIFAR-10 at sigma = 0.25 and 0.12.
SECONDS_ROWS = """0\t3\t3\t0.378\t1\t15.4
20\t7\t-1\t0.0\t0\t15.6
40\t4\t4\t0.341\t1\t15.7
60\t7\t7\t0.941\t1\t15.8
"""
CLOCK_ROWS = """0\t3\t-1\t0.0\t0\t0:00:13.736080
20\t7\t7\t0.0734\t1\t1:02:03
40\t4\t4\t0.405\t1\t13.25
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "certificates.tsv"
    path.write_text(text)
    return path


def test_published_rows_give_their_accuracies(tmp_path: Path) -> None:
    table = CertificateTable.read_tsv(written(tmp_path, HEADER + SECONDS_ROWS))
    assert table.idx.tolist() == [0, 20, 40, 60]
    assert table.correct.tolist() == [True, False, True, True]
    assert table.seconds.tolist() == [15.4, 15.6, 15.7, 15.8]
    # Tables of others do not say what was drawn.
    assert table.samples is None and table.ending is None
    accuracies = certified_accuracy(table.predict, table.radius, table.label, [0, 0.25, 0.35, 0.5])
    assert accuracies.tolist() == [0.75, 0.75, 0.5, 0.25]


def test_time_may_be_a_clock(tmp_path: Path) -> None:
    table = CertificateTable.read_tsv(written(tmp_path, HEADER + CLOCK_ROWS))
    assert table.seconds.tolist() == [13.73608, 3723.0, 13.25]


def test_further_columns_are_allowed(tmp_path: Path) -> None:
    text = HEADER.replace("\n", "\tdraws\tnote\n") + "5\t1\t1\t0.5\t1\t2.5\t1000\tx y\n"
    table = CertificateTable.read_tsv(written(tmp_path, text))
    assert (table.idx[0], table.radius[0], table.seconds[0]) == (5, 0.5, 2.5)


def test_written_text_is_the_fields(tmp_path: Path) -> None:
    path = tmp_path / "certificates.tsv"
    CertificateTable(
        idx=np.array([0, 20]),
        label=np.array([3, 7]),
        predict=np.array([3, -1]),
        radius=np.array([0.1 + 0.2, 0.0]),
        seconds=np.array([1.5, 2.0]),
    ).write_tsv(path)
    assert path.read_text() == (
        HEADER + "0\t3\t3\t0.30000000000000004\t1\t1.5\n20\t7\t-1\t0.0\t0\t2.0\n"
    )


def test_what_was_drawn_follows_where_it_is_known(tmp_path: Path) -> None:
    path = tmp_path / "certificates.tsv"
    CertificateTable(
        idx=np.array([0, 20]),
        label=np.array([3, 7]),
        predict=np.array([3, -1]),
        radius=np.array([0.25, 0.0]),
        seconds=np.array([1.5, 2.0]),
        samples=np.array([1_100, 2**40]),
        ending=np.array(["out_of_reach", "misclassified"]),
    ).write_tsv(path)
    assert path.read_text() == (
        HEADER.replace("\n", "\tsamples\tending\n")
        + "0\t3\t3\t0.25\t1\t1.5\t1100\tout_of_reach\n"
        + f"20\t7\t-1\t0.0\t0\t2.0\t{2**40}\tmisclassified\n"
    )
    table = CertificateTable.read_tsv(path)
    assert table.samples is not None and table.ending is not None
    assert table.samples.dtype == np.int64
    assert table.samples.tolist() == [1_100, 2**40]
    assert table.ending.tolist() == ["out_of_reach", "misclassified"]


@cases(
    ("columns", "shares"),
    [
        # Certified correct, certified wrong, and four abstentions: of a right and of a wrong class,
        # where logits were not finite, and where the class of the samples is wrong too.
        ({"selected": np.array([3, 5, 3, 5, 5, 5])}, (1 / 6, 4 / 6, 1 / 6)),
        (
            {
                "selected": np.array([3, 5, 3, 5, 5, 5]),
                "ending": np.array(["complete"] * 4 + ["not_finite", "misclassified"]),
            },
            (1 / 6, 3 / 6, 2 / 6),
        ),
        ({"ending": np.array(["complete"] * 5 + ["misclassified"])}, (1 / 6, 2 / 6, 3 / 6)),
        ({}, (1 / 6, 1 / 6, 4 / 6)),
    ],
)
def test_shares_tell_wrong_classes_from_abstentions(
    columns: dict[str, Any], shares: tuple[float, float, float]
) -> None:
    table = CertificateTable(
        idx=np.arange(6),
        label=np.full(6, 3),
        predict=np.array([3, 5, -1, -1, -1, -1]),
        radius=np.array([0.25, 0.5, 0, 0, 0, 0]),
        seconds=np.zeros(6),
        **columns,
    )
    found = table.shares
    assert (found.correct, found.misclassified, found.abstained) == pytest.approx(shares)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**31),
            st.integers(0, 999),
            st.integers(-1, 999),
            st.floats(0, 1e6),
            st.floats(0, 1e9),
        ),
        max_size=20,
        unique_by=lambda row: row[0],
    )
)
def test_reading_gives_back_what_was_written_to_the_last_bit(
    tmp_path: Path, rows: list[tuple[int, int, int, float, float]]
) -> None:
    columns = np.array(rows, dtype=np.float64).reshape(-1, 5).T
    idx, label, predict = columns[:3].astype(np.int64)
    table = CertificateTable(
        idx=idx,
        label=label,
        predict=predict,
        radius=np.where(predict == -1, 0.0, columns[3]),
        seconds=columns[4],
    )
    path = tmp_path / "certificates.tsv"
    table.write_tsv(path)
    again = CertificateTable.read_tsv(path)
    for name in ("idx", "label", "predict", "radius", "seconds", "correct"):
        expected = getattr(table, name)
        assert getattr(again, name).dtype == expected.dtype
        assert np.array_equal(getattr(again, name), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a tab-separated table"),
        ("idx,label\n0,1\n", "line 1: the first columns must be idx label"),
        ("idx\tpredict\tlabel\tradius\tcorrect\ttime\n", "line 1"),
        (HEADER + "0\t1\t1\t0.5\t1\t2\n0\t1\tx\t0.5\t1\t2\n", "line 3, column predict: 'x'"),
        (HEADER + "0\t1\t1\tnan\t1\t2\n", "line 2, column radius"),
        (HEADER + "0\t1\t1\tinf\t1\t2\n", "line 2, column radius"),
        (HEADER + "0\t1\t1\t-0.5\t1\t2\n", "line 2, column radius"),
        (HEADER + "1e300\t1\t1\t0.5\t1\t2\n", "line 2, column idx: '1e300' must be at most 1e"),
        (HEADER + "0\t1\t1\t1e300\t1\t2\n", "line 2, column radius"),
        (HEADER + "0\t1\t-1\t0.5\t0\t2\n", "line 2, column radius: '0.5' must be 0 on abstention"),
        (HEADER + "0\t1.5\t1\t0.5\t0\t2\n", "line 2, column label"),
        (HEADER + "-3\t1\t1\t0.5\t1\t2\n", "line 2, column idx"),
        (HEADER + "0\t1\t-2\t0.5\t0\t2\n", "line 2, column predict: '-2' must be -1 or a class"),
        (HEADER + "0\t1\t1\t0.5\t0\t2\n", "line 2, column correct"),
        (HEADER + "0\t1\t2\t0.5\t1\t2\n", "line 2, column correct"),
        (HEADER + "0\t1\t1\t0.5\t1\t1:xx:2\n", "line 2, column time"),
        (HEADER + "0\t1\t1\t0.5\n", "line 2, column correct: ''"),
        (HEADER + "0\t1\t1\t0.5\t1\t2\n\n0\t1\t1\t0.5\t1\t2\n", "line 3, column idx: ''"),
        (HEADER + 2 * "7\t1\t1\t0.5\t1\t2\n", "line 3, column idx: '7' must be of one row alone"),
        (HEADER + "0\t1\t1\t0.5\t1\t2\t7\n", "not a tab-separated table"),
        (HEADER + "0\t1\t1\t0.5\t1\t2\n0\t1\t1\t0.5\t1\t2\t7\t8\n", "line 3"),
        *(
            (
                HEADER.replace("\n", "\tsamples\n") + f"0\t1\t1\t0.5\t1\t2\t{samples}\n",
                f"line 2, column samples: '{samples}' must be",
            )
            for samples in ("1.5", "-1", "", "many", "nan")
        ),
    ],
)
def test_malformed_files_are_refused_by_name_and_place(
    tmp_path: Path, text: str, message: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=message) as refusal:
        CertificateTable.read_tsv(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_no_text_or_absent_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "binary.tsv"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match=r"binary\.tsv is not a tab-separated table"):
        CertificateTable.read_tsv(binary)
    with pytest.raises(InputError, match="is a device"):
        CertificateTable.read_tsv(Path("/dev/zero"))
    endings = HEADER.strip() + "\tending\n0\t1\t1\t0.5\t1\t2\t" + "x" * 1_000_000
    with pytest.raises(InputError, match=r"line 2, column ending: 'x.*' must be at most 100 long"):
        CertificateTable.read_tsv(written(tmp_path, endings))
    with pytest.raises(InputError, match=r"absent\.tsv does not exist"):
        CertificateTable.read_tsv(tmp_path / "absent.tsv")
