"""Leaderboards of hand-made certificates, against numbers worked out by hand."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file

import tune.results.html.page as page_module
import tune.sweep as sweep_module
from decrop.config import DenoiserSettings
from decrop.errors import InputError
from decrop.evaluation.plots import certificates_figure
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json
from tests.tune.results.boards import RADII, sweep_with, write_test_outcome
from tune.directory import SweepDirectory
from tune.results.board import Entry, Leaderboard
from tune.results.leaderboard import build_leaderboard, read_leaderboard, write_leaderboard
from tune.results.metric import Metric
from tune.results.tables import leaderboard_markdown, leaderboard_tables


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


def test_entries_stand_by_held_out_rank(board: Leaderboard) -> None:
    assert [(e.number, e.rank, e.held_out_score) for e in board.entries] == [
        (2, 1, 0.5),
        (1, 2, 0.4),
        (0, 3, 0.3),
    ]
    assert board.best.number == 2
    assert board.reference is not None and board.reference.number == 0
    undefended = board.undefended
    assert (undefended.number, undefended.rank, undefended.held_out_score) == (None, None, None)
    assert undefended.against_reference is None and undefended.against_undefended is None
    assert board.reference.against_reference is None


def test_several_objectives_have_columns_and_a_front(tmp_path: Path) -> None:
    # All have six weights, but trial 1 has three, and is as good as trial 0.
    directory = sweep_with(
        tmp_path, {0: 0.3, 1: 0.3, 2: 0.5}, {0: range(10), 1: range(9), 2: range(18)}
    )
    record = directory.read_record()
    sweep = record.sweep.model_copy(
        update={"objectives": ("average_certified_radius", "parameters")}
    )
    directory.write_record(record.model_copy(update={"sweep": sweep}))
    save_file({"weight": torch.arange(3.0)}, directory.trial(1).denoiser_path)
    for number in (0, 2):
        save_file({"weight": torch.arange(6.0)}, directory.trial(number).denoiser_path)
    board = build_leaderboard(directory, RADII)
    rows = {row.number: row for row in board.held_out}
    assert {number: row.on_front for number, row in rows.items()} == {0: False, 1: True, 2: True}
    assert rows[2].objectives == {"average_certified_radius": 0.5, "parameters": 6.0}
    [table, *_] = leaderboard_tables(board)
    assert table.head[-3:] == ["weights of the denoiser", "Pareto front", "test"]
    assert [row[-3:-1] for row in table.rows] == [["6", "yes"], ["6", ""], ["3", "yes"]]
    write_leaderboard(directory, board)
    assert read_leaderboard(directory) == board


@pytest.mark.parametrize("kept", [0, 1, -3])
def test_a_torn_leaderboard_names_what_mends_it_and_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    directory = sweep_with(tmp_path, {0: 0.3, 1: 0.2}, {0: range(10), 1: range(9)})
    board = build_leaderboard(directory, RADII)
    write_leaderboard(directory, board)
    path = directory.leaderboard_json_path
    path.write_text(path.read_text()[:kept])
    with pytest.raises(InputError, match=r"leaderboard\.json .*`decrop resume .*` writes it anew"):
        read_leaderboard(directory)
    exported: list[int] = []
    monkeypatch.setattr(
        sweep_module, "export_trial", lambda _, number, *args, **options: exported.append(number)
    )
    monkeypatch.setattr(page_module, "write_page", lambda *args, **options: "")
    sweep_module._write_outcome(directory, board, trust_code=False)
    assert read_leaderboard(directory) == board and exported == [0]


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

    # Two-sided tests of 8 to 0, 1 to 1, 12 to 0, and twice 4 to 0 images that tell them apart; at
    # r = 0 none does. Holm multiplies the smallest by 5, the next by 4, and so on, over both
    # opponents, and never lets a larger p-value overtake.
    assert values(2, "reference") == pytest.approx((40.0, 2 / 2**8, 8 / 2**8))
    assert values(1, "reference") == pytest.approx((0.0, 1.0, 1.0))
    assert values(2, "undefended") == pytest.approx((60.0, 2 / 2**12, 10 / 2**12))
    assert values(1, "undefended") == pytest.approx((20.0, 2 / 2**4, 6 / 2**4))
    assert values(0, "undefended") == pytest.approx((20.0, 2 / 2**4, 6 / 2**4))
    comparison = entries[2].against_reference
    assert comparison is not None
    # Bonett and Price: (8 - 0) / 22 +- 1.96 sqrt((10 / 22 - (8 / 22) ** 2) / 22).
    assert comparison["0.25"].low == pytest.approx(12.640, abs=1e-2)
    assert comparison["0.25"].high == pytest.approx(60.087, abs=1e-2)
    # At radius 0 no image tells any two apart.
    assert comparison["0.0"].points == 0.0 and comparison["0.0"].holm_p_value == 1.0


def test_summary_tells_what_is_significant(board: Leaderboard) -> None:
    assert board.summary == (
        "Trial 2's denoiser certifies 60.0 points more than no denoiser at r = 0.25 "
        "(adjusted p = 0.0024). "
        "Trial 2's denoiser certifies 40.0 points more than the reference "
        "at r = 0.25 (adjusted p = 0.031)."
    )


def test_without_trial_0_the_others_are_compared_with_no_denoiser(tmp_path: Path) -> None:
    board = build_leaderboard(sweep_with(tmp_path, {1: 0.4}, {1: range(18)}), RADII)
    assert board.reference is None
    assert board.best.against_reference is None
    assert board.summary.count("denoiser certifies") == 1


def test_a_leaderboard_is_written_with_everything(
    directory: SweepDirectory, board: Leaderboard
) -> None:
    assert read_leaderboard(directory) is None
    write_leaderboard(directory, board)
    assert read_leaderboard(directory) == board
    document = read_json(directory.leaderboard_json_path)
    assert document == json.loads(json.dumps(asdict(board)))
    assert [row["number"] for row in document["entries"]] == [2, 1, 0]
    assert document["by"] == "average_certified_radius" and document["settings"] == []
    assert directory.leaderboard_markdown_path.read_text() == leaderboard_markdown(board)


def test_all_finished_trials_are_ranked_with_their_held_out_scores(board: Leaderboard) -> None:
    shown = [(row.rank, row.number, row.score, row.certified) for row in board.held_out]
    assert shown == [(1, 2, 0.5, True), (2, 1, 0.4, True), (3, 0, 0.3, True), (4, 3, 0.2, False)]
    assert board.held_out[0].certified_accuracy == {"0.0": 0.7, "0.25": 0.5}


def test_the_metric_decides_on_ranks_by_held_out_images_only(tmp_path: Path) -> None:
    directory = sweep_with(
        tmp_path,
        {0: 0.3, 1: 0.9, 2: 0.5},
        {0: range(20), 1: range(19), 2: range(2)},
        accuracies={0: 0.2, 1: 0.3, 2: 0.6},
    )
    by_radius = build_leaderboard(directory, RADII, top=1)
    assert [entry.number for entry in by_radius.entries] == [1, 0]
    board = build_leaderboard(directory, RADII, metric=Metric(0.25), top=1)
    assert board.by == "certified_accuracy@0.25"
    # Trial 2 is the worst on test images by far.
    assert [(e.number, e.rank, e.held_out_score) for e in board.entries] == [
        (2, 1, 0.6),
        (0, 3, 0.2),
    ]
    assert [row.number for row in board.held_out] == [2, 1, 0]


def test_rows_that_were_measured_otherwise_are_named(tmp_path: Path) -> None:
    directory = sweep_with(
        tmp_path, {0: 0.3, 1: 0.4, 2: 0.5}, {0: range(10), 1: range(10), 2: range(18)}
    )
    folder = directory.trial(2)
    record = folder.read_record()
    assert record is not None
    certification = record.config.certification.model_copy(update={"failure_probability": 0.01})
    changes = {"sigma": 0.5, "certification": certification}
    config = record.config.model_copy(update=changes)
    folder.write_record(record.model_copy(update={"config": config}))
    board = build_leaderboard(directory, RADII)
    said = "sigma 0.5, not 0.25; failure probability 0.01, not 0.001"
    assert [(e.number, e.measured_otherwise) for e in board.entries] == [
        (2, said),
        (1, ""),
        (0, ""),
    ]
    assert [row.measured_otherwise for row in board.held_out] == [said, "", ""]
    assert board.undefended is not None and board.undefended.measured_otherwise == ""
    assert board.summary.endswith(f"It was measured otherwise than trial 0: {said}.")
    for table in leaderboard_tables(board):
        if table.head[-1] == "measured otherwise":
            assert [row[-1] for row in table.rows if row[0] in ("1", "trial 2")] == [said]
    assert sum(t.head[-1] == "measured otherwise" for t in leaderboard_tables(board)) == 4


def test_nothing_certified_is_refused(tmp_path: Path) -> None:
    directory = sweep_with(tmp_path, {0: 0.3}, {})
    with pytest.raises(InputError, match="none of its best trials certified"):
        build_leaderboard(directory, RADII)


def test_settings_are_compared_over_seeds(directory: SweepDirectory) -> None:
    write_test_outcome(directory.retraining(2, 1), range(14))
    write_test_outcome(directory.retraining(0, 1), range(12))
    write_test_outcome(directory.retraining(0, 2), range(12))
    board = build_leaderboard(directory, RADII, top=1, seeds=3)
    best, reference = board.settings
    assert (best.number, best.seeds) == (2, (0, 1))
    assert (reference.number, reference.seeds) == (0, (0, 1, 2))
    # 90 and 70 %; 50, 60 and 60 %: standard deviations 20 / sqrt 2 and 10 / sqrt 3.
    accuracy = best.certified_accuracy["0.25"]
    assert accuracy.values == (0.9, 0.7)
    assert (accuracy.mean, accuracy.deviation) == pytest.approx((0.8, 0.2 / 2**0.5))
    accuracy = reference.certified_accuracy["0.25"]
    assert (accuracy.mean, accuracy.deviation) == pytest.approx((1.7 / 3, 0.1 / 3**0.5))
    assert reference.average_certified_radius.mean == pytest.approx(0.1 + 0.2 * 1.7 / 3)
    # Over seeds 0 and 1: images 0 to 9 by all, 10 and 11 by three of four, 12 and 13 by both of
    # ours, 14 to 17 by one of ours; all signs agree: 2 / 2^8.
    assert best.against_reference is not None
    comparison = best.against_reference["0.25"]
    assert (comparison.points, comparison.runs) == (pytest.approx(25.0), 2)
    assert comparison.p_value == pytest.approx(2 / 2**8)
    assert reference.against_reference is None
    # Images 6 to 13 by both of ours, 14 to 17 by one, against one same run without a denoiser.
    assert best.against_undefended is not None
    undefended = best.against_undefended["0.25"]
    assert undefended.points == pytest.approx(50.0)
    assert undefended.p_value == pytest.approx(2 / 2**12)
    assert board.summary == (
        "The settings of trial 2 certify 50.0 points more on average over 2 seeds than no denoiser "
        "at r = 0.25 (adjusted p = 0.0015). "
        "The settings of trial 2 certify 25.0 points more on average over 2 seeds than those "
        "of the reference at r = 0.25 (adjusted p = 0.016)."
    )


def test_one_seed_of_several_says_nothing_of_settings(directory: SweepDirectory) -> None:
    write_test_outcome(directory.retraining(0, 1), range(12))
    board = build_leaderboard(directory, RADII, top=1, seeds=2)
    assert [(entry.number, entry.seeds) for entry in board.settings] == [(2, (0,)), (0, (0, 1))]
    assert board.settings[0].certified_accuracy["0.25"].deviation is None
    assert board.summary.startswith("Trial 2's denoiser certifies ")


def test_all_rows_are_drawn_in_one_figure(
    directory: SweepDirectory, board: Leaderboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[dict[str, CertificateTable]] = []

    def drawing(tables: dict[str, CertificateTable]) -> Figure:
        drawn.append(tables)
        return certificates_figure(tables)

    monkeypatch.setattr("decrop.evaluation.plots.certificates_figure", drawing)
    write_leaderboard(directory, board)
    (tables,) = drawn
    assert list(tables) == ["trial 2", "trial 1", "trial 0, reference", "no denoiser"]
    robust = [int((rows.radius == 0.3).sum()) for rows in tables.values()]
    assert robust == [18, 10, 10, 6]
    assert directory.accuracy_figure_path.read_bytes().startswith(b"\x89PNG")


def test_denoisers_that_have_seen_other_images_are_told_apart(directory: SweepDirectory) -> None:
    assert "seen other images" not in build_leaderboard(directory, RADII).summary
    for number in (0, 2):
        folder = directory.trial(number)
        record = folder.read_record()
        assert record is not None
        denoiser = DenoiserSettings(
            source="ffdnet", weights="/home/me/f.safetensors", pretrained_on="photographs"
        )
        config = record.config.model_copy(update={"denoiser": denoiser})
        folder.write_record(record.model_copy(update={"config": config}))
    board = build_leaderboard(directory, RADII)
    assert board.summary.endswith(
        " Trials 0, 2 start from a denoiser that has seen other images than the limited data: "
        "ffdnet with f.safetensors, trained before on photographs."
    )
    assert "trained before on photographs" in leaderboard_markdown(board)
