"""Certificates of several sources side by side, against numbers worked out by hand."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from decrop.cli.main import run
from decrop.errors import InputError
from decrop.evaluation.plots import certificates_figure
from decrop.evaluation.record import CertificationRecord
from decrop.evaluation.table import CertificateTable, Shares
from decrop.files import read_json, write_json
from tests.commands import contents, decrop
from tests.decrop.evaluation.test_record import record
from tests.refusals import one_line
from tests.tune.results.boards import sweep_with
from tests.tune.runs import FinishedSweep
from tests.tune.sweeps import robust_table
from tune.directory import SweepDirectory
from tune.results.compare import (
    Certified,
    envelope_of,
    place_side_by_side,
    read_certified,
    renamed,
    side_by_side_tables,
    write_side_by_side,
)


def certified(name: str, robust: range, **changes: Any) -> Certified:
    table = replace(robust_table(robust), record=record_of_twenty(**changes))
    return Certified(f"some/{name}", name, table)


def record_of_twenty(**changes: Any) -> CertificationRecord:
    """Images 0 to 19, at radii 0 and 0.25; settings of certification may be changed by name."""
    own = {name: changes.pop(name) for name in ("sigma", "precision", "hashes") if name in changes}
    return record(images=20, certification={"radii": (0.0, 0.25), **changes}, **own)


@pytest.fixture
def sources() -> list[Certified]:
    return [
        certified("first", range(10)),
        certified("second", range(18)),
        certified("third", range(1, 11), hashes={}),
    ]


def made(parent: Path, images: str = "a") -> SweepDirectory:
    """Trial 2 is best but not certified, then trial 1, then trial 0."""
    directory = sweep_with(
        parent, {0: 0.3, 1: 0.4, 2: 0.5}, {0: range(10), 1: range(18)}, undefended=range(6)
    )
    for folder in (directory.final(0), directory.final(1), directory.undefended):
        document = read_json(folder.result_path)
        write_json(folder.result_path, {**document, "hashes": {"certified_images": images}})
    return directory


def test_each_is_compared_with_the_first(sources: list[Certified]) -> None:
    board = place_side_by_side(sources)
    first, second, third = board.rows
    assert [row.name for row in board.rows] == ["first", "second", "third"]
    assert second.certified_accuracy == {"0.0": 1.0, "0.25": 0.9}
    assert second.intervals["0.25"] == pytest.approx((0.6830, 0.9877), abs=5e-5)
    assert second.average_certified_radius == pytest.approx(0.28)
    assert (second.images, second.shares) == (20, Shares(1.0, 0.0, 0.0))
    assert first.against_first is None
    assert second.against_first is not None and third.against_first is not None
    # Two-sided tests of 8 to 0 and 1 to 1; Holm doubles the smaller. At r = 0 none differ.
    compared = second.against_first["0.25"]
    assert (compared.points, compared.p_value) == (pytest.approx(40.0), pytest.approx(2 / 2**8))
    assert compared.holm_p_value == pytest.approx(4 / 2**8)
    assert third.against_first["0.25"].p_value == 1.0
    assert board.summary == (
        "“second” certifies 40.0 points more than “first” at r = 0.25 (adjusted p = 0.016). "
        "The difference of “third” to “first” at r = 0.25 is within noise (+0.0 points, "
        "adjusted p = 1)."
    )


def test_tables_have_intervals_and_differences(sources: list[Certified]) -> None:
    accuracies, differences = side_by_side_tables(place_side_by_side(sources))
    shares = ("correct", "wrong class", "abstain")
    assert accuracies.head == ["", "r = 0", "r = 0.25", "average radius", *shares]
    assert "on the same 20 images" in accuracies.caption
    assert accuracies.rows[1] == [
        *("second", "100.0 (83.2–100.0)", "90.0 (68.3–98.8)", "0.280", "100.0", "0.0", "0.0")
    ]
    assert "to “first” in points" in differences.caption
    assert [row[0] for row in differences.rows] == ["second", "third"]
    assert differences.rows[0][2] == "+40.0 (+12.6 to +60.1), p = 0.0078 (adjusted 0.016)"
    assert "Holm-adjusted over all rows and radii of the table" in differences.caption


def test_what_was_measured_otherwise_is_said_beside_the_number(tmp_path: Path) -> None:
    log = tmp_path / "others.tsv"
    robust_table(range(12)).write_tsv(log)
    sources = [
        certified("first", range(10)),
        certified("alike", range(10)),
        certified("weak", range(18), failure_probability=0.1, sigma=0.5, procedure="fixed"),
        read_certified(str(log)),
    ]
    board = place_side_by_side(sources)
    said = "sigma 0.5, not 0.25; procedure fixed, not adaptive; failure probability 0.1, not 0.001"
    assert [row.measured_otherwise for row in board.rows] == ["", "", said, "settings unknown"]
    accuracies, differences = side_by_side_tables(board)
    assert [row[-1] for row in accuracies.rows] == ["", "", said, "settings unknown"]
    assert [row[-1] for row in differences.rows] == ["", said, "settings unknown"]
    assert accuracies.head[-1] == differences.head[-1] == "measured otherwise"
    assert f"“weak” was measured otherwise: {said}." in board.summary


def test_an_envelope_takes_the_largest_radius_of_each_image_and_is_compared_with_nothing(
    sources: list[Certified],
) -> None:
    board = place_side_by_side([*sources, envelope_of(sources)])
    *_, envelope = board.rows
    # Images 0 to 17 at 0.3 where the second has them; the first and third have none beside these.
    assert envelope.certified_accuracy == {"0.0": 1.0, "0.25": 0.9}
    assert (envelope.name, envelope.against_first) == ("envelope", None)
    assert "the failure probabilities of these add up" in board.summary
    _, differences = side_by_side_tables(board)
    assert [row[0] for row in differences.rows] == ["second", "third"]


def test_radii_and_names_may_be_given_and_shown_in_other_norms(sources: list[Certified]) -> None:
    named = renamed(sources, ["A", "B", "C"])
    board = place_side_by_side(named, (0.0, 0.2), pixel_values=64)
    accuracies, norms, _ = side_by_side_tables(board)
    assert accuracies.head[:3] == ["", "r = 0", "r = 0.2"]
    assert norms.head == ["L2", "L1", "L∞", "L∞ × 255", "A", "B", "C"]
    # 0.2 / sqrt(64) = 0.025, of 255 grey levels 6.375.
    assert norms.rows[1] == ["0.2", "0.2", "0.025", "6.38", "50.0", "90.0", "50.0"]
    with pytest.raises(InputError, match="given once, but there are 3 targets"):
        renamed(sources, ["A"])


def test_the_commands_read_logs_of_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, robust in (("a", range(10)), ("b", range(18))):
        robust_table(robust).write_tsv(tmp_path / f"{name}.tsv")
    both = [str(tmp_path / "a.tsv"), str(tmp_path / "b.tsv")]
    given = ["--radii", "0,0.2", "--method", "Ours_$1$", "--method", "Theirs"]
    assert run(["compare", *both, *given, "--norms"]) == 2
    assert "add --pixel-values" in capsys.readouterr().err
    assert run(["compare", *both, *given, "--latex"]) == 0
    assert "Ours\\_\\$1\\$ & 100.0 (83.2–100.0) & 50.0 (27.2–72.8)" in capsys.readouterr().out
    assert run(["report", *both, *given]) == 0
    assert "| Theirs | 100.0 (83.2–100.0) | 90.0 (68.3–98.8) |" in capsys.readouterr().out


def test_a_folder_gets_text_and_one_figure_of_all(
    sources: list[Certified], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[dict[str, CertificateTable]] = []

    def drawing(tables: dict[str, CertificateTable]) -> Figure:
        drawn.append(tables)
        return certificates_figure(tables)

    monkeypatch.setattr("tune.results.compare.certificates_figure", drawing)
    board = place_side_by_side(sources)
    write_side_by_side(sources, board, tmp_path / "both")
    (tables,) = drawn
    robust = {name: int((table.radius == 0.3).sum()) for name, table in tables.items()}
    assert robust == {"first": 10, "second": 18, "third": 10}
    assert sorted(contents(tmp_path / "both")) == ["compare.md", "compare.png"]
    assert (tmp_path / "both" / "compare.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "both" / "compare.md").read_text()
    assert re.findall(r"\((compare\.png)\)", text) == ["compare.png"]
    assert board.summary in text
    for table in side_by_side_tables(board):
        assert table.markdown() in text


@pytest.mark.parametrize(
    ("selector", "name", "robust"),
    [
        ("", "trial 1", 18),
        (":best", "trial 1", 18),
        (":0", "trial 0", 10),
        (":undefended", "no denoiser", 6),
    ],
)
def test_a_sweep_gives_its_best_certified_trial_or_another(
    tmp_path: Path, selector: str, name: str, robust: int
) -> None:
    directory = made(tmp_path)
    found = read_certified(f"{directory.path}{selector}")
    assert found.name == f"{directory.path.name}: {name}"
    assert int((found.table.radius == 0.3).sum()) == robust
    assert found.table.record is not None
    assert found.table.record.certification.radii == (0.0, 0.25)
    assert found.table.record.hashes == {"certified_images": "a"}


def test_sources_of_the_same_name_are_called_as_they_were_given(tmp_path: Path) -> None:
    path = made(tmp_path).path
    best, first = f"{path}", f"{path}:1"
    sources = [read_certified(target) for target in (best, first, f"{path}:0")]
    board = place_side_by_side(sources)
    assert [row.name for row in board.rows] == [best, first, f"{path.name}: trial 0"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("HERE:2", "HERE:2: trial 2 is not certified on test images; certified trials are 0, 1."),
        ("HERE:last", "HERE:last: give best, a trial's number or a row's name."),
        ("HERE/none:3", "HERE/none:3 is no sweep directory"),
        ("HERE/none", "HERE/none is no sweep directory"),
        ("HERE/trials", "HERE/trials is no sweep directory"),
    ],
)
def test_what_has_no_certificates_is_refused(tmp_path: Path, target: str, message: str) -> None:
    path = str(made(tmp_path).path)
    with pytest.raises(InputError, match=re.escape(message.replace("HERE", path))):
        read_certified(target.replace("HERE", path))


def test_a_sweep_with_nothing_certified_is_refused(tmp_path: Path) -> None:
    path = sweep_with(tmp_path, {0: 0.3}, {}).path
    with pytest.raises(InputError, match=r"certified trials are none"):
        read_certified(str(path))


def test_other_images_are_refused_by_name(tmp_path: Path) -> None:
    first, second = made(tmp_path / "a"), made(tmp_path / "b", images="b")
    both = [read_certified(str(directory.path)) for directory in (first, second)]
    message = f"{first.path} and {second.path} are not certified on the same images"
    assert message in one_line(place_side_by_side, both)
    lines = first.final(0).certificates_path.read_text().splitlines(keepends=True)
    (tmp_path / "fewer.tsv").write_text("".join(lines[:-1]))
    both = [both[0], read_certified(str(tmp_path / "fewer.tsv"))]
    assert "fewer.tsv are not certified on the same images" in one_line(place_side_by_side, both)


def test_fewer_than_two_and_the_same_twice_are_refused(sources: list[Certified]) -> None:
    with pytest.raises(InputError, match="two targets"):
        place_side_by_side(sources[:1])
    with pytest.raises(InputError, match="some/first: was given twice"):
        place_side_by_side([sources[0], sources[1], sources[0]])


def test_the_command_compares_sweep_bundle_and_file(
    finished: FinishedSweep, tmp_path: Path
) -> None:
    directory = finished.directory
    best = finished.ran.last_line["best"]
    file = tmp_path / "undefended.tsv"
    for suffix in ("", ".json"):
        written = directory.undefended.certificates_path
        shutil.copyfile(f"{written}{suffix}", f"{file}{suffix}")
    ran = decrop(
        *("compare", f"{directory.path}:0", directory.bundle_path, file),
        *("--to", tmp_path / "to", "--json"),
    )
    assert ran.code == 0, ran.out + ran.err
    rows = ran.last_line["rows"]
    assert [row["name"] for row in rows] == [
        *(f"{directory.path.name}: trial 0", "bundle", "undefended.tsv")
    ]
    assert ran.last_line["radii"] == [0.0, 0.25, 0.5, 0.75]
    assert [row["measured_otherwise"] for row in rows] == ["", "", ""]
    shown = [row["certified_accuracy"] for row in rows]
    assert shown[0] == finished.ran.last_line["reference"]["certified_accuracy"]
    assert shown[1] == best["certified_accuracy"]
    assert shown[2] == finished.ran.last_line["undefended"]["certified_accuracy"]
    assert ran.last_line["summary"] in " ".join(ran.out.split())
    assert sorted(contents(tmp_path / "to")) == ["compare.md", "compare.png"]
    # Without a folder nothing is written.
    before = contents(tmp_path)
    ran = decrop("compare", directory.path, f"{directory.path}:undefended")
    assert ran.code == 0 and contents(tmp_path) == before


def test_the_command_refuses_bad_input(tmp_path: Path) -> None:
    path = made(tmp_path).path
    ran = decrop("compare", path)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "error: compare needs two targets or more; give another one.\n"
    (tmp_path / "file").write_text("")
    ran = decrop("compare", path, f"{path}:0", "--to", tmp_path / "file")
    assert ran.code == 2 and "is a file; give a folder" in ran.err
