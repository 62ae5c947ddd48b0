"""What a sweep that was stopped has found so far."""

from tune.directory import SweepDirectory
from tune.results.board import build_leaderboard, held_out_ranking
from tune.results.ranking import (
    REFERENCE,
    certified_radii,
    chosen,
    ranking,
    sweep_metric,
    sweep_top,
)
from tune.results.tables import TextTable
from tune.results.wording import accuracy_table, held_out_table


def standing_tables(directory: SweepDirectory, *, decimals: int = 1) -> list[TextTable]:
    """Tabulate the finished trials by held-out score, and what is certified on test images.

    Args:
        directory: of the sweep.
        decimals: of the ends of intervals in %.

    Returns:
        no table where no trial has finished.
    """
    metric = sweep_metric(directory)
    scores = ranking(directory, metric)
    if not scores:
        return []
    radii, top = certified_radii(directory), sweep_top(directory)
    through_surrogate = "surrogate" in directory.trial(scores[0][0]).read_inputs()
    tables = [
        held_out_table(
            held_out_ranking(directory, scores),
            radii,
            metric,
            "classifier" if _has_none(directory) else "denoiser",
            through_surrogate=through_surrogate,
        )
    ]
    compared = chosen(scores, len(scores) if top is None else top)
    certified = [number for number in compared if directory.final(number).result_path.exists()]
    if certified and (directory.undefended.result_path.exists() or _has_none(directory)):
        board = build_leaderboard(directory, radii, metric=metric, top=top)
        tables.append(accuracy_table(board, decimals=decimals))
    return tables


def _has_none(directory: SweepDirectory) -> bool:
    """Tell whether no classifier is certified without a denoiser, for the reference trains its own.

    See `tune.final_runs.certify_finals`.
    """
    record = directory.trial(REFERENCE).read_record()
    return record is not None and record.config.trains_classifier
