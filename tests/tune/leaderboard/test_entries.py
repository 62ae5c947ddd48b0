"""Leaderboards of hand-made certificates, against numbers worked out by hand."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import tune.leaderboard
from decrop.evaluation.plots import certificates_figure
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json, write_json
from decrop.result import Scores, TrialResult
from tests.tune.sweeps import begin, end, make_sweep, robust_table, write_outcome
from tune.directory import State, SweepDirectory, SweepTrialFolder
from tune.leaderboard import (
    Entry,
    Leaderboard,
    build_leaderboard,
    chosen,
    entry_name,
    markdown,
    ranking,
    read_leaderboard,
    write_leaderboard,
)

RADII = (0.0, 0.25)


def write_test_outcome(folder: SweepTrialFolder, robust: Iterable[int]) -> None:
    """Certify images 0 to 19 of class 3: correct with radius 0.3 where robust, else 0.1."""
    table = robust_table(robust)
    folder.path.mkdir(parents=True)
    table.write_tsv(folder.certificates_path)
    outcome = TrialResult(
        split="test",
        scores=Scores.of(table, RADII),
        clean_accuracy=1.0,
        flip_rate=None,
        precision="fp32",
        device="cpu",
        chunks_per_batch=4,
        hashes={},
        seconds={},
    )
    write_json(folder.result_path, outcome.to_json())


def sweep_with(
    parent: Path,
    held_out: dict[int, float],
    robust: dict[int, Iterable[int]],
    undefended: Iterable[int] = range(6),
) -> SweepDirectory:
    directory = make_sweep(parent)
    for number, radius in held_out.items():
        add_trial(directory, number, "complete", radius)
    for number, images in robust.items():
        write_test_outcome(directory.final(number), images)
    write_test_outcome(directory.undefended, undefended)
    return directory


def add_trial(directory: SweepDirectory, number: int, state: State, radius: float) -> None:
    folder = directory.trial(number)
    begin(folder, number)
    write_outcome(folder, radius=radius)
    if state != "running":
        end(folder, state, error="it broke" if state == "failed" else None)


@pytest.fixture
def directory(tmp_path: Path) -> SweepDirectory:
    """Trial 2 is best, then 1, then 0; trial 3 was not certified on test."""
    return sweep_with(
        tmp_path,
        {0: 0.3, 1: 0.4, 2: 0.5, 3: 0.2},
        {0: range(10), 1: [*range(9), 19], 2: range(18)},
    )


@pytest.fixture
def board(directory: SweepDirectory) -> Leaderboard:
    return build_leaderboard(directory, RADII)


def by_number(board: Leaderboard) -> dict[int | None, Entry]:
    return {entry.number: entry for entry in board.entries}


def test_ranking_is_of_complete_trials_by_held_out_score(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    add_trial(directory, 0, "complete", 0.2)
    add_trial(directory, 1, "pruned", 0.9)
    add_trial(directory, 2, "failed", 0.8)
    add_trial(directory, 3, "running", 0.7)
    add_trial(directory, 4, "complete", 0.5)
    add_trial(directory, 5, "complete", 0.2)
    begin(directory.trial(6), 6)
    assert ranking(directory) == [(4, 0.5), (0, 0.2), (5, 0.2)]


@pytest.mark.parametrize(
    ("order", "top", "expected"),
    [
        ([3, 1, 0, 2], 2, [3, 1, 0]),
        ([3, 0, 1, 2], 2, [3, 0]),
        ([0, 1, 2, 3], 1, [0]),
        ([1, 2, 3, 0], 9, [1, 2, 3, 0]),
        ([1, 2, 3], 2, [1, 2]),
        ([], 3, []),
    ],
)
def test_chosen_are_the_best_and_trial_0_once(
    order: list[int], top: int, expected: list[int]
) -> None:
    assert chosen([(number, 0.5) for number in order], top) == expected


def test_entries_stand_by_held_out_rank(board: Leaderboard) -> None:
    assert [(e.number, e.rank, e.held_out_radius) for e in board.entries] == [
        (2, 1, 0.5),
        (1, 2, 0.4),
        (0, 3, 0.3),
    ]
    assert board.best.number == 2
    assert board.reference is not None and board.reference.number == 0
    undefended = board.undefended
    assert (undefended.number, undefended.rank, undefended.held_out_radius) == (None, None, None)
    assert undefended.against_reference is None and undefended.against_undefended is None
    assert board.reference.against_reference is None


def test_intervals_are_those_of_clopper_and_pearson(board: Leaderboard) -> None:
    entries = by_number(board)
    assert entries[2].result["certified_accuracy"] == {"0.0": 1.0, "0.25": 0.9}
    # Tables of exact 95 % limits: 18 and 10 of 20; 20 of 20 is 0.025 to the power of 1 / 20.
    assert entries[2].intervals["0.25"] == pytest.approx((0.6830, 0.9877), abs=5e-5)
    assert entries[0].intervals["0.25"] == pytest.approx((0.2720, 0.7280), abs=5e-5)
    assert entries[0].intervals["0.0"] == pytest.approx((0.025 ** (1 / 20), 1.0))
    assert board.undefended.intervals["0.25"] == pytest.approx((0.1189, 0.5428), abs=5e-5)


def test_comparisons_are_mcnemar_tests_adjusted_by_holm(board: Leaderboard) -> None:
    entries = by_number(board)

    def values(number: int, opponent: str) -> tuple[float, float, float]:
        comparisons = getattr(entries[number], f"against_{opponent}")
        one = comparisons["0.25"]
        return one.points, one.p_value, one.holm_p_value

    # Two-sided tests of 8 to 0, 1 to 1, 12 to 0, and twice 4 to 0 images that tell them apart;
    # Holm multiplies by 2, then 1, and by 3, then 2, and never lets a larger p-value overtake.
    assert values(2, "reference") == pytest.approx((40.0, 2 / 2**8, 4 / 2**8))
    assert values(1, "reference") == pytest.approx((0.0, 1.0, 1.0))
    assert values(2, "undefended") == pytest.approx((60.0, 2 / 2**12, 6 / 2**12))
    assert values(1, "undefended") == pytest.approx((20.0, 2 / 2**4, 4 / 2**4))
    assert values(0, "undefended") == pytest.approx((20.0, 2 / 2**4, 4 / 2**4))
    comparison = entries[2].against_reference
    assert comparison is not None
    # Bonett and Price: (8 - 0) / 22 +- 1.96 sqrt((10 / 22 - (8 / 22) ** 2) / 22).
    assert comparison["0.25"].low == pytest.approx(12.640, abs=1e-2)
    assert comparison["0.25"].high == pytest.approx(60.087, abs=1e-2)
    # At radius 0 no image tells any two apart.
    assert comparison["0.0"].points == 0.0 and comparison["0.0"].holm_p_value == 1.0


def test_summary_tells_what_is_significant(board: Leaderboard) -> None:
    assert board.summary == (
        "Trial 2's denoiser certifies 60.0 points more than no denoiser at r = 0.25 (p = 0.0015). "
        "Trial 2's denoiser certifies 40.0 points more than the denoiser with the paper's choice "
        "at r = 0.25 (p = 0.016)."
    )


def test_summary_tells_what_is_within_noise(tmp_path: Path) -> None:
    directory = sweep_with(tmp_path, {0: 0.3, 1: 0.4}, {0: range(6), 1: range(7)})
    assert build_leaderboard(directory, RADII).summary == (
        "The difference of trial 1's denoiser to no denoiser at r = 0.25 is within noise "
        "(+5.0 points, p = 1). The difference of trial 1's denoiser to the denoiser with the "
        "paper's choice at r = 0.25 is within noise (+5.0 points, p = 1)."
    )


def test_summary_says_when_nothing_better_was_found(tmp_path: Path) -> None:
    directory = sweep_with(tmp_path, {0: 0.4, 1: 0.3}, {0: range(18), 1: range(10)})
    summary = build_leaderboard(directory, RADII).summary
    assert summary == (
        "Trial 0's denoiser certifies 60.0 points more than no denoiser at r = 0.25 (p = 0.00098). "
        "The search found nothing better than the paper's choice."
    )


def test_best_is_rank_1_even_where_the_test_split_shows_otherwise(tmp_path: Path) -> None:
    directory = sweep_with(tmp_path, {0: 0.3, 1: 0.9}, {0: range(20), 1: range(2)})
    board = build_leaderboard(directory, RADII)
    assert board.best.number == 1
    assert "certifies 90.0 points fewer than the denoiser with the paper's choice" in board.summary


def test_without_trial_0_the_others_are_compared_with_no_denoiser(tmp_path: Path) -> None:
    board = build_leaderboard(sweep_with(tmp_path, {1: 0.4}, {1: range(18)}), RADII)
    assert board.reference is None
    assert board.best.against_reference is None
    assert board.summary.count("denoiser certifies") == 1


def test_a_leaderboard_is_read_as_it_was_written(
    directory: SweepDirectory, board: Leaderboard
) -> None:
    assert read_leaderboard(directory) is None
    write_leaderboard(directory, board)
    assert read_leaderboard(directory) == board
    document = read_json(directory.leaderboard_json_path)
    assert [row["number"] for row in document["entries"]] == [2, 1, 0]
    assert directory.leaderboard_markdown_path.read_text() == markdown(board)


def test_all_rows_are_drawn_in_one_figure(
    directory: SweepDirectory, board: Leaderboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[dict[str, CertificateTable]] = []

    def drawing(tables: dict[str, CertificateTable]) -> Figure:
        drawn.append(tables)
        return certificates_figure(tables)

    monkeypatch.setattr(tune.leaderboard, "certificates_figure", drawing)
    write_leaderboard(directory, board)
    (tables,) = drawn
    assert list(tables) == ["trial 2", "trial 1", "trial 0 (paper's choice)", "no denoiser"]
    robust = [int((rows.radius == 0.3).sum()) for rows in tables.values()]
    assert robust == [18, 10, 10, 6]
    assert directory.accuracy_figure_path.read_bytes().startswith(b"\x89PNG")


def test_markdown_is_a_table_with_intervals(board: Leaderboard) -> None:
    lines = markdown(board).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    assert rows[0] == ["rank", "denoiser", "average radius, held out", "r = 0.0", "r = 0.25"]
    assert set(rows[1]) == {"---"} and len(rows[1]) == 5
    assert rows[2] == ["1", "trial 2", "0.500", "100.0 (83.2–100.0)", "90.0 (68.3–98.8)"]
    assert rows[4][:2] == ["3", "trial 0 (paper's choice)"]
    assert rows[5] == ["", "no denoiser", "", "100.0 (83.2–100.0)", "30.0 (11.9–54.3)"]
    assert len(rows) == 6
    assert lines[-1] == board.summary
    assert [entry_name(entry) for entry in board.entries][1] == "trial 1"
