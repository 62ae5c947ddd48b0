"""Figures of a search: its history, importance of settings, Pareto fronts."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from decrop.evaluation.escaping import figure_text

# Okabe and Ito's blue and vermilion, which colour-blind people tell apart.
_BLUE, _VERMILION = "#0072B2", "#D55E00"
_LEAST_HEIGHT = 1.6
_BAR_INCHES = 0.3


def history_figure(
    complete: Mapping[int, float],
    pruned: Mapping[int, float],
    reference: int,
    label: str = "Average certified radius",
) -> Figure:
    """Draw the held-out score of each trial, by its number, the best so far, and the reference.

    `label` is what the score is.
    """
    figure, axes = _figure(4.2)
    best, steps = float("-inf"), []
    for number in sorted(complete):
        best = max(best, complete[number])
        steps.append((number, best))
    steps.append((max([*complete, *pruned]), best))
    axes.step(*zip(*steps, strict=True), where="post", color=_BLUE, label="best so far")
    axes.plot(*_points(complete), "o", color=_BLUE, ms=5, label="complete")
    if pruned:
        axes.plot(*_points(pruned), "o", color="0.6", ms=5, mfc="none", label="pruned")
    if reference in complete:
        axes.plot([reference], [complete[reference]], "D", color=_VERMILION, label="reference")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    axes.set_xlabel("Trial")
    axes.set_ylabel(f"{label}, held out")
    axes.set_title("Search history", fontsize="medium")
    axes.legend(fontsize="small")
    return figure


def importances_figure(shares: Mapping[str, float], title: str) -> Figure:
    """Draw a bar a setting, the first on top, of shares in [0,1] by dotted path."""
    figure, axes = _figure(max(_LEAST_HEIGHT, 1 + _BAR_INCHES * len(shares)))
    bars = axes.barh(
        list(map(figure_text, shares)), [100 * share for share in shares.values()], color=_BLUE
    )
    axes.bar_label(bars, fmt="%.0f", padding=3, fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("Share of the variance of scores (%)")
    # Over the names too, which leave the axes little room.
    figure.suptitle(title, fontsize="medium")
    return figure


def front_figure(
    points: Mapping[int, tuple[float, float]], front: Sequence[int], labels: tuple[str, str]
) -> Figure:
    """Draw a second number of trials over a first one, with the Pareto front.

    Args:
        points: both numbers, by trial.
    """
    figure, axes = _figure(4.2)
    axes.plot(*zip(*points.values(), strict=True), "o", color=_BLUE, ms=5, label="complete")
    first_to_last = sorted(points[number] for number in front)
    axes.plot(
        *zip(*first_to_last, strict=True),
        "o--",
        color=_VERMILION,
        ms=7,
        mfc="none",
        label="Pareto front",
    )
    for number in front:
        axes.annotate(
            f"trial {number}",
            points[number],
            xytext=(5, 5),
            textcoords="offset points",
            fontsize="small",
        )
    axes.margins(0.1)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.legend(fontsize="small")
    return figure


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    return figure, axes


def _points(scores: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return list(scores), list(scores.values())
