"""Tables of results as Markdown and LaTeX, and what they say in sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from decrop.evaluation.escaping import latex_text, markdown_text
from decrop.evaluation.table import Shares
from decrop.trial.result import NOISY_IMAGE, radius_key
from tune.results.board import Entry, HeldOut, Leaderboard, SettingsEntry
from tune.results.metric import AVERAGE_RADIUS, Metric, metric_named
from tune.results.paired import Comparison, Comparisons
from tune.results.ranking import REFERENCE

# Words that fit the columns of a terminal of 80.
SHARES_HEADS = ("correct", "wrong class", "abstain")
SHARES_CAPTION = (
    "images certified correct, misclassified (a wrong class was selected, certified or not; where "
    "a table does not tell, those certified) and abstained on, in %"
)


@dataclass(frozen=True)
class TextTable:
    """A table of texts."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Write caption and table in Markdown."""
        lines = [_line(self.head), f"|{' --- |' * len(self.head)}", *map(_line, self.rows)]
        return f"{markdown_text(self.caption)}\n\n" + "\n".join(lines) + "\n"

    def latex(self) -> str:
        """Write a table environment in LaTeX, for the package booktabs."""
        frame = pd.DataFrame(self.rows, columns=list(self.head))
        return frame.to_latex(
            index=False,
            escape=True,
            caption=latex_text(self.caption),
            column_format="l" + "r" * (len(self.head) - 1),
        )


def with_remarks(table: TextTable, remarks: Sequence[str]) -> TextTable:
    """Add a column that says, a text a row, how it was measured otherwise, unless none was."""
    if not any(remarks):
        return table
    rows = [[*row, remark] for row, remark in zip(table.rows, remarks, strict=True)]
    return TextTable(table.caption, [*table.head, "measured otherwise"], rows)


def mean_cell(values: Sequence[float] | NDArray[np.float64], form: str) -> str:
    """Write values of several runs as mean ± standard deviation [number]; a single one as it is.

    `form` is of a number, such as `{:.1f}`.
    """
    if len(values) == 1:
        return f"{form.format(values[0])} [1]"
    spread = form.format(np.std(values, ddof=1))
    return f"{form.format(np.mean(values))} ± {spread} [{len(values)}]"


def accuracy_cell(
    values: Sequence[float], interval: tuple[float, float], *, decimals: int = 1
) -> str:
    """Write a certified accuracy in percent: with its interval, of several runs as their mean.

    `decimals` are of the interval's ends.
    """
    if len(values) > 1:
        return mean_cell([100 * value for value in values], "{:.1f}")
    low, high = interval
    return f"{100 * values[0]:.1f} ({100 * low:.{decimals}f}–{100 * high:.{decimals}f})"


def difference_cell(comparison: Comparison) -> str:
    """Write a difference in points with its interval, its p-value, and the adjusted one."""
    return (
        f"{comparison.points:+.1f} ({comparison.low:+.1f} to {comparison.high:+.1f}), "
        f"p = {comparison.p_value:.2g} (adjusted {comparison.holm_p_value:.2g})"
    )


def share_cells(shares: Shares) -> list[str]:
    """Write the shares of `SHARES_HEADS` in percent."""
    return [
        f"{100 * share:.1f}" for share in (shares.correct, shares.misclassified, shares.abstained)
    ]


def difference_table(
    opponent: str,
    rows: Sequence[tuple[str, Comparisons, str]],
    radii: tuple[float, ...],
    *,
    title: str = "Difference of certified accuracy",
    family: str = " of the table",
    head: str = "",
) -> TextTable:
    """Tabulate differences of certified accuracies.

    Args:
        opponent: that all rows are compared with.
        rows: names, comparisons, and how they were measured otherwise, empty where they were not.
        title: of what the differences are.
        family: of which rows and radii p-values are adjusted over.
    """
    caption = (
        f"{title} to {opponent} in points, with 95 % intervals (Bonett and Price) and p of the "
        "exact paired test over images (McNemar's for single runs), both of that pair and radius "
        f"alone; in brackets p Holm-adjusted over all rows and radii{family}, on whose number it "
        "depends."
    )
    cells = [
        [name, *(difference_cell(comparisons[radius_key(radius)]) for radius in radii)]
        for name, comparisons, _ in rows
    ]
    table = TextTable(caption, [head, *radius_heads(radii)], cells)
    return with_remarks(table, [remark for *_, remark in rows])


def radius_heads(radii: tuple[float, ...]) -> list[str]:
    """Return the heads of a column a radius."""
    return [f"r = {radius:g}" for radius in radii]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(markdown_text, cells))} |"


SIGNIFICANCE = 0.05
UNDEFENDED = "no denoiser"


def denoiser_name(number: int | None, row: str | None = None) -> str:
    """Name a row: a trial, the reference, a row of a table, or no denoiser."""
    if number is None:
        return UNDEFENDED
    trial = f"trial {number}"
    if number != REFERENCE:
        return row or trial
    # Short words, for columns of a terminal are narrow.
    return f"{trial}, reference" if row in (None, trial) else f"{row} (reference)"


def difference_sentence(
    subject: str, verb: str, opponent: str, comparison: Comparison, radius: float
) -> str:
    """Say by how much one certifies more or less than another, or that it is within noise.

    The subject is such as `trial 2's denoiser`, its verb `certifies` or `certify`.
    """
    runs = f" on average over {comparison.runs} seeds" if comparison.runs > 1 else ""
    p_value = f"adjusted p = {comparison.holm_p_value:.2g}"
    if comparison.holm_p_value >= SIGNIFICANCE:
        return (
            f"The difference of {subject} to {opponent} at r = {radius:g} is within noise "
            f"({comparison.points:+.1f} points{runs}, {p_value})."
        )
    direction = "more" if comparison.points > 0 else "fewer"
    return (
        f"{subject[0].upper()}{subject[1:]} {verb} {abs(comparison.points):.1f} points {direction}"
        f"{runs} than {opponent} at r = {radius:g} ({p_value})."
    )


def summary_of(best: Entry | SettingsEntry, radii: tuple[float, ...], metric: Metric) -> str:
    """Compare the best, a denoiser or settings over seeds, with no denoiser and with trial 0."""
    radius = headline_radius(radii, metric)
    name = f"trial {best.number}"
    if best.name not in (None, name):
        name = f"“{best.name}”"
    if isinstance(best, SettingsEntry):
        subject, verb = f"the settings of {name}", "certify"
        opponent = "those of the reference"
    else:
        part = "classifier" if best.trains_classifier else "denoiser"
        subject, verb = f"{name}'s {part}", "certifies"
        opponent = "the reference"
    sentences = []
    for other, comparisons in (
        (UNDEFENDED, best.against_undefended),
        (opponent, best.against_reference),
    ):
        if comparisons is not None:
            comparison = comparisons[radius_key(radius)]
            sentences.append(difference_sentence(subject, verb, other, comparison, radius))
    if not isinstance(best, SettingsEntry) and best.measured_otherwise:
        sentences.append(f"It was measured otherwise than trial 0: {best.measured_otherwise}.")
    if best.number == REFERENCE:
        sentences.append(
            "The search found nothing better than the reference."
            if best.name is None
            else "It is the reference."
        )
    return " ".join(sentences)


def surrogate_sentences(agreement: float | None) -> list[str]:
    """Say what was certified through a surrogate, if anything.

    `agreement` is the share of held-out images on which surrogate and black box agree.
    """
    if agreement is None:
        return []
    return [
        "Held-out scores are through the surrogate, which agrees with the endpoint on "
        f"{100 * agreement:.1f} % of the held-out images; test certificates are the endpoint's own."
    ]


def pretraining_sentences(origins: Mapping[int, str]) -> list[str]:
    """Say which trials start from denoisers that have seen other images than the limited ones.

    Args:
        origins: what they were and have seen, by trial.
    """
    by_origin: dict[str, list[int]] = {}
    for number, origin in origins.items():
        by_origin.setdefault(origin, []).append(number)
    return [
        f"{'Trial' if len(numbers) == 1 else 'Trials'} {', '.join(map(str, sorted(numbers)))} "
        f"{'starts' if len(numbers) == 1 else 'start'} from a denoiser that has seen other images "
        f"than the limited data: {origin}."
        for origin, numbers in by_origin.items()
    ]


def headline_radius(radii: tuple[float, ...], metric: Metric) -> float:
    """Return the radius that sentences speak of.

    It is that of the metric, else the smallest reported one at which robustness is certified.
    """
    if metric.radius:
        return metric.radius
    return next((radius for radius in radii if radius > 0), radii[0])


def leaderboard_markdown(board: Leaderboard) -> str:
    """Write all tables of the leaderboard and its summary in Markdown."""
    tables = "\n".join(table.markdown() for table in leaderboard_tables(board))
    return f"{tables}\n{markdown_text(board.summary)}\n"


def leaderboard_tables(board: Leaderboard, *, decimals: int = 1) -> list[TextTable]:
    """Tabulate ranks, certificates and what they are compared with.

    `decimals` are of the ends of intervals in %.
    """
    entries = _certified(board)
    tables = [
        held_out_table(
            board.held_out,
            board.radii,
            board.metric,
            _kind(board),
            through_surrogate=board.agreement is not None,
        ),
        accuracy_table(board, decimals=decimals),
    ]
    tables.append(_test_table(entries, _kind(board)))
    tables += _difference_tables(board, "Difference of certified accuracy", board.entries)
    if board.settings:
        tables.append(_settings_table(board))
        title = "Difference over seeds, of mean certified accuracy"
        tables += _difference_tables(board, title, board.settings)
    return tables


def held_out_table(
    rows: Sequence[HeldOut],
    radii: tuple[float, ...],
    metric: Metric,
    kind: str = "denoiser",
    *,
    through_surrogate: bool = False,
) -> TextTable:
    """Tabulate the finished trials by rank.

    Args:
        through_surrogate: whether that is what held-out images are certified on.
    """
    through = " (through the surrogate)" if through_surrogate else ""
    objectives = [metric_named(name, radii, source="objectives") for name in rows[0].objectives]
    # The others have their columns.
    objectives = [m for m in objectives if m.radius is None and m.kind != AVERAGE_RADIUS]
    several = bool(rows[0].objectives)
    front = "; Pareto front: no other trial is as good in all objectives and better in one"
    table = TextTable(
        f"Finished trials by {metric.phrase} on held-out images{through}: average certified "
        "radius, certified accuracy in %, and whether they are certified on test images"
        f"{front if several else ''}.",
        [
            "rank",
            kind,
            "average radius",
            *radius_heads(radii),
            *(metric.phrase for metric in objectives),
            *(["Pareto front"] if several else []),
            "test",
        ],
        [
            [
                str(row.rank),
                denoiser_name(row.number, row.name),
                f"{row.average_certified_radius:.3f}",
                *(f"{100 * row.certified_accuracy[radius_key(radius)]:.1f}" for radius in radii),
                *(metric.text(row.objectives[metric.name]) for metric in objectives),
                *(["yes" if row.on_front else ""] if several else []),
                "yes" if row.certified else "",
            ]
            for row in rows
        ],
    )
    return with_remarks(table, [row.measured_otherwise for row in rows])


def accuracy_table(board: Leaderboard, *, decimals: int = 1) -> TextTable:
    """Tabulate certified accuracies on the test split; arguments as in `leaderboard_tables`."""
    rows = []
    for entry in _certified(board):
        score = "" if entry.held_out_score is None else board.metric.text(entry.held_out_score)
        cells = [str(entry.rank or ""), denoiser_name(entry.number, entry.name), score]
        for key in map(radius_key, board.radii):
            accuracy = entry.result["certified_accuracy"][key]
            cells.append(accuracy_cell([accuracy], entry.intervals[key], decimals=decimals))
        rows.append(cells)
    where = "" if board.agreement is None else " (on the endpoint)"
    through = "" if board.agreement is None else " through the surrogate"
    table = TextTable(
        f"Certified accuracy on test images{where} in %, with exact 95 % intervals; held out: "
        f"{board.metric.phrase}{through}, which ranks.",
        ["rank", _kind(board), "held out", *radius_heads(board.radii)],
        rows,
    )
    return with_remarks(table, [entry.measured_otherwise for entry in _certified(board)])


def _test_table(entries: Sequence[Entry], kind: str) -> TextTable:
    rows = []
    for entry in entries:
        seconds = entry.result["seconds"].get(NOISY_IMAGE)
        rows.append(
            [
                denoiser_name(entry.number, entry.name),
                f"{entry.result['average_certified_radius']:.3f}",
                f"{100 * entry.result['clean_accuracy']:.1f}",
                *share_cells(entry.shares),
                "" if seconds is None else f"{1000 * seconds:.3g}",
            ]
        )
    return TextTable(
        "The same on test images: average certified radius; accuracy without noise in %; "
        f"{SHARES_CAPTION}; milliseconds for an image with noise, measured in a batch where it was "
        "certified.",
        [kind, "average radius", "clean accuracy", *SHARES_HEADS, "ms an image"],
        rows,
    )


def _settings_table(board: Leaderboard) -> TextTable:
    rows = []
    for entry in board.settings:
        accuracies = [entry.certified_accuracy[radius_key(r)].values for r in board.radii]
        rows.append(
            [
                denoiser_name(entry.number, entry.name),
                *(mean_cell([100 * value for value in values], "{:.1f}") for values in accuracies),
                mean_cell(entry.average_certified_radius.values, "{:.3f}"),
                mean_cell([100 * value for value in entry.clean_accuracy.values], "{:.1f}"),
            ]
        )
    return TextTable(
        "Settings over seeds, on test images: certified accuracy in %, average certified radius, "
        "accuracy without noise in %, as mean ± standard deviation over trainings from several "
        "seeds, in brackets their number.",
        ["settings of", *radius_heads(board.radii), "average radius", "clean accuracy"],
        rows,
    )


def _difference_tables(
    board: Leaderboard, title: str, entries: "Sequence[Entry | SettingsEntry]"
) -> list[TextTable]:
    reference = denoiser_name(REFERENCE, next((e.name for e in entries if e.number == 0), None))
    compared = {
        reference: [(entry, entry.against_reference) for entry in entries],
        UNDEFENDED: [(entry, entry.against_undefended) for entry in entries],
    }
    otherwise = {entry.number: entry.measured_otherwise for entry in board.entries}
    shown = {to: [(e, found) for e, found in pairs if found] for to, pairs in compared.items()}
    shown = {to: pairs for to, pairs in shown.items() if pairs}
    return [
        difference_table(
            opponent,
            [
                (denoiser_name(entry.number, entry.name), found, otherwise[entry.number])
                for entry, found in pairs
            ],
            board.radii,
            title=title,
            family=f", to {' and to '.join(shown)}",
        )
        for opponent, pairs in shown.items()
    ]


def _kind(board: Leaderboard) -> str:
    """Name what trials are: denoisers, unless the reference trains its classifier."""
    return "denoiser" if board.undefended is not None else "classifier"


def _certified(board: Leaderboard) -> list[Entry]:
    return [*board.entries, *([] if board.undefended is None else [board.undefended])]
