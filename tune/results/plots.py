"""Figures of a search: its history, importance of settings, radius against size."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's blue and vermilion, which colour-blind people tell apart.
_BLUE, _VERMILION = "#0072B2", "#D55E00"
_RADIUS = "Average certified radius, held out"
_LEAST_HEIGHT = 1.6
_BAR_INCHES = 0.3


def history_figure(
    complete: Mapping[int, float], pruned: Mapping[int, float], reference: int
) -> Figure:
    """Draw the held-out score of each trial, by its number, the best so far, and the reference."""
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
    axes.set_ylabel(_RADIUS)
    axes.set_title("Search history", fontsize="medium")
    axes.legend(fontsize="small")
    return figure


def importances_figure(shares: Mapping[str, float], title: str) -> Figure:
    """Draw a bar a setting, the first on top, of shares in [0,1] by dotted path."""
    figure, axes = _figure(max(_LEAST_HEIGHT, 1 + _BAR_INCHES * len(shares)))
    bars = axes.barh(list(shares), [100 * share for share in shares.values()], color=_BLUE)
    axes.bar_label(bars, fmt="%.0f", padding=3, fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("Share of the variance of scores (%)")
    # Over the names too, which leave the axes little room.
    figure.suptitle(title, fontsize="medium")
    return figure


def size_figure(points: Mapping[str, tuple[int, float]], front: Sequence[str]) -> Figure:
    """Draw the held-out score over the size of the denoiser, with the Pareto front.

    Args:
        points: number of weights and average certified radius, by trial.
        front: those that no smaller denoiser equals, by size.
    """
    figure, axes = _figure(4.2)
    axes.plot(*zip(*points.values(), strict=True), "o", color=_BLUE, ms=5, label="complete")
    axes.plot(
        *zip(*(points[name] for name in front), strict=True),
        "o--",
        color=_VERMILION,
        ms=7,
        mfc="none",
        label="Pareto front",
    )
    for name in front:
        axes.annotate(
            name, points[name], xytext=(5, 5), textcoords="offset points", fontsize="small"
        )
    axes.margins(0.1)
    axes.set_xlabel("Weights of the denoiser")
    axes.set_ylabel(_RADIUS)
    axes.set_title("Certified radius against the denoiser's size", fontsize="medium")
    axes.legend(fontsize="small")
    return figure


def pareto_front(points: Mapping[str, tuple[int, float]]) -> list[str]:
    """Return the names that no other one beats: none is as small and scores higher, or smaller and
    scores as high.

    Args:
        points: a cost, to be minimised, and a score, to be maximised, by name.
    """
    front: list[str] = []
    best = float("-inf")
    for name in sorted(points, key=lambda name: (points[name][0], -points[name][1])):
        if points[name][1] > best:
            front.append(name)
            best = points[name][1]
    return front


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    return figure, axes


def _points(scores: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return list(scores), list(scores.values())
