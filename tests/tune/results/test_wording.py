"""Sentences and tables, against texts written by hand."""

from pathlib import Path

import pytest

from tests.cases import cases
from tests.tune.results.boards import RADII, sweep_with, write_test_outcome
from tune.directory import SweepDirectory
from tune.results.leaderboard import build_leaderboard
from tune.results.metric import Metric
from tune.results.paired import Comparison
from tune.results.tables import (
    denoiser_name,
    difference_cell,
    difference_sentence,
    headline_radius,
    leaderboard_markdown,
    leaderboard_tables,
)

ACCURACIES = (
    "Certified accuracy on test images in %, with exact 95 % intervals; held out: average "
    "certified radius, which ranks.",
    ["rank", "denoiser", "held out", "r = 0", "r = 0.25"],
)


@pytest.fixture
def directory(tmp_path: Path) -> SweepDirectory:
    return sweep_with(tmp_path, {0: 0.3, 1: 0.2, 2: 0.5}, {0: range(10), 2: range(18)})


def comparison(points: float, p_value: float, runs: int = 1) -> Comparison:
    # Sentences show the adjusted p-value, tables both.
    return Comparison(points, points - 2, points + 2, p_value / 3, p_value, runs)


@cases(
    ("compared", "expected"),
    [
        (
            comparison(6.4, 0.003),
            "Trial 17's denoiser certifies 6.4 points more than the reference at r = 0.25 "
            "(adjusted p = 0.003).",
        ),
        (
            comparison(-6.4, 0.049),
            "Trial 17's denoiser certifies 6.4 points fewer than the reference at r = 0.25 "
            "(adjusted p = 0.049).",
        ),
        (
            comparison(6.4, 0.05),
            "The difference of trial 17's denoiser to the reference at r = 0.25 is within "
            "noise (+6.4 points, adjusted p = 0.05).",
        ),
        (
            comparison(-1.5, 0.5, runs=3),
            "The difference of trial 17's denoiser to the reference at r = 0.25 is within "
            "noise (-1.5 points on average over 3 seeds, adjusted p = 0.5).",
        ),
    ],
)
def test_a_sentence_says_what_is_significant(compared: Comparison, expected: str) -> None:
    said = difference_sentence("trial 17's denoiser", "certifies", "the reference", compared, 0.25)
    assert said == expected


def test_a_cell_has_points_interval_and_both_p_values() -> None:
    assert (
        difference_cell(comparison(6.4, 0.003)) == "+6.4 (+4.4 to +8.4), p = 0.001 (adjusted 0.003)"
    )


@cases(
    ("radii", "metric", "radius"),
    [
        ((0.0, 0.25, 0.5), Metric(), 0.25),
        ((0.0, 0.25, 0.5), Metric(0.5), 0.5),
        ((0.0, 0.25, 0.5), Metric(0.0), 0.25),
        ((0.0,), Metric(), 0.0),
    ],
)
def test_sentences_speak_of_the_metrics_radius_or_the_smallest(
    radii: tuple[float, ...], metric: Metric, radius: float
) -> None:
    assert headline_radius(radii, metric) == radius


def test_names_of_denoisers() -> None:
    assert denoiser_name(None) == "no denoiser"
    assert denoiser_name(3) == "trial 3"
    assert denoiser_name(0) == "trial 0, reference"
    assert denoiser_name(3, "DE-CROP") == "DE-CROP"
    assert denoiser_name(0, "baseline") == "baseline (reference)"


def test_tables_show_ranks_certificates_and_differences(directory: SweepDirectory) -> None:
    board = build_leaderboard(directory, RADII, top=1)
    held_out, accuracies, test, reference, undefended = leaderboard_tables(board)
    assert held_out.caption.startswith("Finished trials by average certified radius on held-out")
    assert held_out.rows == [
        ["1", "trial 2", "0.500", "70.0", "50.0", "yes"],
        ["2", "trial 0, reference", "0.300", "70.0", "50.0", "yes"],
        ["3", "trial 1", "0.200", "70.0", "50.0", ""],
    ]
    assert (accuracies.caption, accuracies.head) == ACCURACIES
    # Clopper and Pearson's limits of 20, 18, 10 and 6 of 20, from tables.
    assert accuracies.rows == [
        ["1", "trial 2", "0.500", "100.0 (83.2–100.0)", "90.0 (68.3–98.8)"],
        ["2", "trial 0, reference", "0.300", "100.0 (83.2–100.0)", "50.0 (27.2–72.8)"],
        ["", "no denoiser", "", "100.0 (83.2–100.0)", "30.0 (11.9–54.3)"],
    ]
    assert test.rows == [
        ["trial 2", "0.280", "95.0", "100.0", "0.0", "0.0", "1.23"],
        ["trial 0, reference", "0.200", "95.0", "100.0", "0.0", "0.0", "1.23"],
        ["no denoiser", "0.160", "95.0", "100.0", "0.0", "0.0", "1.23"],
    ]
    assert "to trial 0, reference in points" in reference.caption
    assert [row[0] for row in reference.rows] == ["trial 2"]
    assert reference.rows[0][2] == "+40.0 (+12.6 to +60.1), p = 0.0078 (adjusted 0.016)"
    assert "to no denoiser in points" in undefended.caption
    family = (
        "all rows and radii, to trial 0, reference and to no denoiser, on whose number it depends."
    )
    assert reference.caption.endswith(family) and undefended.caption.endswith(family)
    assert [row[0] for row in undefended.rows] == ["trial 2", "trial 0, reference"]


def test_a_caption_names_only_the_opponents_that_are_there(tmp_path: Path) -> None:
    board = build_leaderboard(sweep_with(tmp_path, {1: 0.4}, {1: range(18)}), RADII)
    *_, only = leaderboard_tables(board)
    assert only.caption.endswith(
        "over all rows and radii, to no denoiser, on whose number it depends."
    )


def test_intervals_may_be_rounded_for_a_terminal(directory: SweepDirectory) -> None:
    board = build_leaderboard(directory, RADII)
    assert leaderboard_tables(board, decimals=0)[1].rows[0][4] == "90.0 (68–99)"


def test_a_result_without_latency_has_an_empty_cell(directory: SweepDirectory) -> None:
    board = build_leaderboard(directory, RADII)
    board.best.result["seconds"].pop("noisy_image")
    assert [row[-1] for row in leaderboard_tables(board)[2].rows] == ["", "1.23", "1.23"]


@pytest.mark.slow
def test_tables_over_seeds_have_means_and_deviations(directory: SweepDirectory) -> None:
    write_test_outcome(directory.retraining(2, 1), range(14))
    write_test_outcome(directory.retraining(0, 1), range(12))
    *_, spread, reference, undefended = leaderboard_tables(
        build_leaderboard(directory, RADII, top=1, seeds=2)
    )
    assert spread.rows == [
        ["trial 2", "100.0 ± 0.0 [2]", "80.0 ± 14.1 [2]", "0.260 ± 0.028 [2]", "95.0 ± 0.0 [2]"],
        [
            *("trial 0, reference", "100.0 ± 0.0 [2]", "55.0 ± 7.1 [2]"),
            *("0.210 ± 0.014 [2]", "95.0 ± 0.0 [2]"),
        ],
    ]
    assert [row[0] for row in reference.rows] == ["trial 2"]
    assert reference.rows[0][2].startswith("+25.0 (")
    assert len(undefended.rows) == 2


def test_markdown_has_all_tables_and_ends_with_the_summary(directory: SweepDirectory) -> None:
    board = build_leaderboard(directory, RADII)
    lines = leaderboard_markdown(board).splitlines()
    assert sum(set(line) == set("| -") for line in lines) == len(leaderboard_tables(board))
    assert "| 1 | trial 2 | 0.500 | 100.0 (83.2–100.0) | 90.0 (68.3–98.8) |" in lines
    assert lines[-1] == board.summary
