"""Figures, drawn without global state: `figure.savefig(path)` writes them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from decrop.evaluation.accuracy import certified_correct, exact_interval

_TERMS = {
    "total": "Total loss (minimised)",
    "label_consistency": "Label consistency loss",
    "cosine_similarity": "Cosine similarity (maximised)",
    "mmd": "Maximum mean discrepancy",
    "discriminator": "Domain discriminator loss",
}


def certified_accuracy_figure(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]], max_radius: float
) -> Figure:
    """Draw certified accuracy over radius, one step curve a name, with 95 % exact intervals.

    Args:
        curves: for each name prediction [B], radius [B] and labels [B] as in `certified_correct`.
        max_radius: right end of the axis, in [0,1] pixels, > 0.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, (prediction, radius, labels) in curves.items():
        within = np.asarray(radius)[np.asarray(radius) < max_radius]
        radii = np.unique(np.concatenate([[0.0], within, [max_radius]]))
        certified = certified_correct(prediction, radius, labels, radii)
        images = certified.shape[1]
        successes = certified.sum(axis=1)
        low, high = exact_interval(successes, images)
        # At an image's own radius it still counts: each value holds up to and including its radius.
        (line,) = axes.step(radii, 100 * successes / images, where="pre", label=name)
        axes.fill_between(
            radii, 100 * low, 100 * high, step="pre", color=line.get_color(), alpha=0.15, lw=0
        )
    axes.set_xlim(0, max_radius)
    axes.set_ylim(0, 100)
    axes.set_xlabel("L2 radius ([0,1] pixels)")
    axes.set_ylabel("Certified accuracy (%)")
    axes.set_title("Certified accuracy with 95 % exact intervals", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def training_curves_figure(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw each loss term over the epochs, in a panel of its own.

    Args:
        history: one row an epoch with "epoch", counted through both phases; "phase", 1 or 2; and
            the terms "label_consistency", "cosine_similarity", "mmd", "discriminator" (None in
            phase 1) and "total".
    """
    panels = {
        term: title
        for term, title in _TERMS.items()
        if any(row[term] is not None for row in history)
    }
    boundary = _phase_boundary(history)
    columns = 3
    figure = Figure(figsize=(9.6, 2.7 * max(1, -(-len(panels) // columns))), layout="constrained")
    FigureCanvasAgg(figure)
    for position, (term, title) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(-(-len(panels) // columns), columns, position)
        rows = [row for row in history if row[term] is not None]
        axes.plot(
            [row["epoch"] for row in rows], [row[term] for row in rows], lw=1.2, marker=".", ms=3
        )
        _finish_panel(axes, title, history, boundary)
    return figure


def _phase_boundary(history: Sequence[Mapping[str, Any]]) -> float | None:
    first = [row["epoch"] for row in history if row["phase"] == 1]
    second = [row["epoch"] for row in history if row["phase"] == 2]
    return (max(first) + min(second)) / 2 if first and second else None


def _finish_panel(
    axes: Axes, title: str, history: Sequence[Mapping[str, Any]], boundary: float | None
) -> None:
    epochs = [row["epoch"] for row in history]
    axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_xlabel("Epoch")
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    if boundary is not None:
        axes.axvline(boundary, color="0.4", ls="--", lw=1)
        axes.annotate(
            "phase 2",
            (boundary, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -3),
            textcoords="offset points",
            va="top",
            fontsize="x-small",
            color="0.3",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
        )
