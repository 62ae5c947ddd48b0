"""Reports of hand-made certificates, against numbers worked out by hand."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from decrop.config import TrialConfig
from decrop.errors import InputError
from decrop.files import write_json
from tests.commands import decrop
from tests.tune.sweeps import make_sweep, result, robust_table
from tune.directory import SweepDirectory, SweepTrialFolder, TrialRecord
from tune.results.report import read_report, report_latex, report_markdown, write_report

CONFIG = TrialConfig.model_validate({"certification": {"radii": [0.0, 0.25]}})


def certify(folder: SweepTrialFolder, robust: Iterable[int], samples: int = 500) -> None:
    """Certify images 0 to 19: correct with radius 0.3 where robust, else with 0.1."""
    table = robust_table(robust, samples)
    folder.path.mkdir(parents=True, exist_ok=True)
    table.write_tsv(folder.certificates_path)
    write_json(folder.result_path, result("test"))


def made(
    parent: Path,
    robust: dict[tuple[str | None, int], Iterable[int]],
    name: str = "table",
    **sweep: Any,
) -> SweepDirectory:
    """Make a sweep directory with final trials by row and seed."""
    directory = make_sweep(parent, name, description="All of 1 %.", **sweep)
    for number, ((row, seed), images) in enumerate(robust.items()):
        folder = directory.final(number)
        certify(folder, images)
        parameters: dict[str, Any] = {"seed": seed} if "seeds" in sweep else {}
        config = CONFIG.model_copy(update={"seed": seed})
        record = TrialRecord(
            number=number, reference=number == 0, parameters=parameters, config=config, row=row
        )
        folder.write_record(record)
    certify(directory.undefended, range(6), samples=301)
    return directory


def cells(markdown: str) -> list[list[str]]:
    rows = [line for line in markdown.splitlines() if line.startswith("| ")]
    split = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    return [row for row in split if set("".join(row)) != {"-"}]


def test_rows_stand_beside_published_numbers_and_the_reference(tmp_path: Path) -> None:
    directory = made(
        tmp_path,
        {
            ("baseline", 0): range(10),
            ("+ discriminator + MMD", 0): range(18),
            ("instance level", 0): [*range(9), 19],
        },
        name="paper_table4",
        rows={"baseline": {}, "instance level": {}, "+ discriminator + MMD": {}},
    )
    text = report_markdown([read_report(directory)])
    assert text.startswith("## paper_table4\n\nAll of 1 %.\n")
    found = cells(text)
    assert found[0] == [
        *("denoiser", "r = 0", "r = 0.25", "average radius", "samples an image"),
        "published, r = 0 / 0.25 / 0.5 / 0.75",
    ]
    assert [row[0] for row in found[1:5]] == [
        *("baseline", "instance level", "+ discriminator + MMD", "no denoiser"),
    ]
    # Clopper and Pearson's limits of 10 and 18 of 20, from tables.
    assert found[1][1:] == [
        *("100.0 (83.2–100.0)", "50.0 (27.2–72.8)", "0.200", "500", "29.8 / 9.2 / 1.4 / 0"),
    ]
    assert found[3][2:] == ["90.0 (68.3–98.8)", "0.280", "500", "57.6 / 27.2 / 9.2 / 2.2"]
    assert found[4][3:] == ["0.160", "301", ""]
    # Bonett and Price, and McNemar's tests of 8 to 0, 4 to 0 and 1 to 1, thrice, twice and once.
    assert [row[0] for row in found[6:]] == [
        *("instance level", "+ discriminator + MMD", "no denoiser")
    ]
    assert found[7][2] == "+40.0 (+12.6 to +60.1), p = 0.0078 (adjusted 0.023)"
    assert found[6][2].startswith("+0.0 (") and found[6][2].endswith("p = 1 (adjusted 1)")
    assert found[8][2].startswith("-20.0 (") and found[8][2].endswith("(adjusted 0.25)")
    assert "Difference of certified accuracy to “baseline” in points" in text


def test_a_row_of_several_seeds_is_mean_and_spread_with_one_test(tmp_path: Path) -> None:
    directory = made(
        tmp_path,
        {
            ("reference", 0): range(4),
            ("reference", 1): range(4),
            ("ours", 0): range(8),
            # Four seeds would be three; the third of the reference is missing.
            ("ours", 1): range(10),
            ("ours", 2): range(18),
        },
        rows={"ours": {}, "reference": {}},
        reference="reference",
        seeds=3,
    )
    text = report_markdown([read_report(directory)])
    found = cells(text)
    assert "mean ± standard deviation over trainings from several seeds" in text
    # 40, 50 and 90 %: mean 60, standard deviation sqrt((400 + 100 + 900) / 2).
    assert found[1][:3] == ["ours", "100.0 ± 0.0 [3]", "60.0 ± 26.5 [3]"]
    assert found[1][3] == "0.220 ± 0.053 [3]"
    assert found[2][:3] == ["reference", "100.0 ± 0.0 [2]", "20.0 ± 0.0 [2]"]
    assert found[3][2] == "30.0 (11.9–54.3)"
    # Two seeds have both: 4 images by both runs of ours only, 2 by one; all signs agree: 2 / 2^6.
    # 2 to 0 for no denoiser, which is the same whatever the seed: 2 / 2^2.
    ours, undefended = found[5], found[6]
    assert ours[2].startswith("+25.0 (") and ours[2].endswith("p = 0.031 (adjusted 0.062)")
    assert undefended[2].startswith("+10.0 (") and undefended[2].endswith("p = 0.5 (adjusted 0.5)")


def test_trials_of_a_search_are_reported_by_number(tmp_path: Path) -> None:
    directory = made(tmp_path, {(None, 0): range(10), (None, 1): range(18)}, search="tpe")
    found = cells(report_markdown([read_report(directory)]))
    assert [row[0] for row in found] == [
        *("denoiser", "trial 0", "trial 1", "no denoiser"),
        *("denoiser", "trial 1", "no denoiser"),
    ]
    assert found[0][-1] == "samples an image"


def test_rows_that_were_measured_otherwise_say_so(tmp_path: Path) -> None:
    robust = {("weak", 0): range(10), ("strong", 0): range(18)}
    directory = made(tmp_path, robust, rows={"weak": {}, "strong": {}}, reference="strong")
    folder = directory.final(0)
    record = folder.read_record()
    assert record is not None
    config = record.config.model_copy(update={"sigma": 0.5})
    folder.write_record(record.model_copy(update={"config": config}))
    report = read_report(directory)
    found = cells(report_markdown([report]))
    heads = [row for row in found if row[0] == "denoiser"]
    assert [row[-1] for row in heads] == ["measured otherwise"] * 2
    said = [(row[0], row[-1]) for row in found if row not in heads]
    # Without a denoiser it is certified with the settings of trial 0, which is "weak" here.
    weak, bare = ("weak", "sigma 0.5, not 0.25"), ("no denoiser", "sigma 0.5, not 0.25")
    assert said == [weak, ("strong", ""), bare, weak, bare]
    assert "measured otherwise" in report_latex([report])


def test_without_its_reference_a_report_has_no_differences(tmp_path: Path) -> None:
    directory = made(
        tmp_path, {("b", 0): range(10)}, rows={"a": {}, "b": {}, "c": {}}, reference="c"
    )
    report = read_report(directory)
    assert report.reference is None
    assert [row[0] for row in cells(report_markdown([report]))] == ["denoiser", "b", "no denoiser"]


def test_latex_takes_no_sign_for_a_command(tmp_path: Path) -> None:
    directory = made(tmp_path, {("a & b_1, 5 %", 0): range(10)}, name="my_table")
    text = report_latex([read_report(directory)])
    assert r"\section*{my\_table}" in text and r"All of 1 \%." in text
    assert r"a \& b\_1, 5 \% & 100.0 (83.2–100.0) & 50.0 (27.2–72.8) & 0.200 & 500 \\" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    assert not re.search(r"(?<!\\)[%_#$]", text)


@pytest.mark.slow
def test_a_folder_gets_both_forms_and_a_figure_of_each_sweep(tmp_path: Path) -> None:
    first = made(tmp_path, {("a", 0): range(10)}, rows={"a": {}})
    second = made(tmp_path, {("b", 0): range(3), ("b", 1): range(5)}, rows={"b": {}}, seeds=2)
    folder = tmp_path / "report"
    write_report([read_report(first), read_report(second)], folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("certified_accuracy_1.png", "certified_accuracy_2.png", "report.md", "report.tex"),
    ]
    markdown = (folder / "report.md").read_text()
    assert re.findall(r"\((certified_accuracy_\d\.png)\)", markdown) == [
        *("certified_accuracy_1.png", "certified_accuracy_2.png")
    ]
    latex = (folder / "report.tex").read_text()
    assert latex.count(r"\includegraphics{certified_accuracy_") == 2
    for path in folder.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_command_prints_several_sweeps_in_either_form(tmp_path: Path) -> None:
    paths = [made(tmp_path, {("a", 0): range(n)}, rows={"a": {}}).path for n in (5, 10)]
    printed = decrop("report", *paths)
    reports = [read_report(SweepDirectory.open(path)) for path in paths]
    assert (printed.code, printed.out) == (0, report_markdown(reports))
    assert decrop("report", *paths, "--latex").out == report_latex(reports)


def test_a_sweep_without_certificates_is_refused(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path, "table", rows={"a": {}})
    with pytest.raises(InputError, match=r"nothing certified yet.*decrop resume"):
        read_report(directory)
