"""Figures, drawn without global state: `figure.savefig(path)` writes them."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from decrop.errors import InputError
from decrop.evaluation.curves import (
    accuracy_curve,
    end_of_curves,
    probability_curve,
    steps_of,
)
from decrop.evaluation.escaping import figure_text
from decrop.evaluation.table import CertificateTable

# Okabe and Ito's colours, which colour-blind people tell apart, without the yellow that is too pale
# for a line on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_WRONG = "#D55E00"
_ENVELOPE: Mapping[str, Any] = {"color": "0.35", "ls": "-", "lw": 5, "alpha": 0.4, "zorder": 1.5}
_START: Mapping[str, Any] = {"marker": "o", "markevery": [0], "ms": 4}
# Of another length than the colours, so that 28 rows differ in one or the other.
_LINE_STYLES = ("-", "--", "-.", ":")
_MARKERS = ("o", "^", "s", "D", "v")

_PICTURE_INCHES = 1.0
# For its title, where there are few columns.
_LEAST_GRID_INCHES = 5.6
# As many as fit under a picture.
_NAME_CHARACTERS = 11
_MOST_MARKED_EPOCHS = 60
# As many as fit over a panel of losses, and the share of its width that "phase 1" takes.
_TITLE_CHARACTERS = 32
_LEAST_NAMED_PHASE = 0.15
LOSS_TITLES = {
    "total": "Total loss (minimised)",
    "label_consistency": "Label consistency loss",
    "cosine_similarity": "Cosine similarity, mean of views (maximised)",
    "mmd": "Maximum mean discrepancy",
    "discriminator": "Domain discriminator loss",
    "generated_label_consistency": "Label consistency of generated samples",
    "distillation": "Distance from clean outputs",
    "squared_error": "Mean squared error",
    "prior_squared_error": "Mean squared error on generated images",
    "prior_distillation": "Distance from clean outputs, generated images",
    "cross_entropy": "Cross-entropy",
    "runner_up_cross_entropy": "Cross-entropy of the runner-up (maximised)",
    "accuracy": "Accuracy on what is trained on",
}


def certificates_figure(
    tables: Mapping[str, CertificateTable], max_radius: float | None = None
) -> Figure:
    """Draw certified accuracy over radius, one step curve a table, with 95 % exact intervals.

    Envelopes, which follow other curves, lie broad and grey behind them.

    Args:
        max_radius: right end of the axis, in [0,1] pixels, > 0; where all curves are 0 if None.
    """
    for name, table in tables.items():
        if not len(table.idx):
            raise InputError(f"{name}: there are no certificates to draw.")
    max_radius = max_radius or end_of_curves(tables.values())
    figure, axes = _axes_of_shares("Certified accuracy with 95 % exact intervals")
    styles = zip(cycle(_COLOURS), cycle(_LINE_STYLES), strict=False)
    for (name, table), (colour, style) in zip(tables.items(), styles, strict=False):
        curve = accuracy_curve(table, steps_of(table.radius, max_radius))
        # At an image's own radius it still counts: each value holds up to and including its radius.
        axes.step(
            curve.radii,
            100 * curve.share,
            where="pre",
            label=figure_text(name),
            **({"color": colour, "ls": style} if table.sigma is None else _ENVELOPE),
            # At radius 0 alone a curve may be much higher than right after it.
            **_START,
        )
        if table.sigma is None:
            axes.fill_between(
                curve.radii,
                100 * curve.low,
                100 * curve.high,
                step="pre",
                color=colour,
                alpha=0.13,
                lw=0,
            )
    axes.set_xlim(-0.015 * max_radius, max_radius)
    axes.set_xlabel("L2 radius ([0,1] pixels)")
    axes.set_ylabel("Certified accuracy (%)")
    axes.legend(fontsize="small")
    return figure


def probabilities_figure(tables: Mapping[str, CertificateTable]) -> Figure:
    """Draw how p_A, the probability of an image's class under noise, is distributed, by name.

    Of each probability the share of images that are correct with at least that lower bound of p_A,
    so that hard images, whose bound is little above 1/2, take as much room as easy ones. The legend
    tells what the other images come to.

    Source: Sun et al., Average Certified Radius is a Poor Metric for Randomized Smoothing,
    arXiv 2410.06895, who propose it in place of the average certified radius.

    Args:
        tables: certificates by name; those that are not known to be of one sigma are left out.
    """
    figure, axes = _axes_of_shares("Distribution of p_A, by its lower confidence bounds")
    styles = zip(cycle(_COLOURS), cycle(_LINE_STYLES), strict=False)
    for (name, table), (colour, style) in zip(tables.items(), styles, strict=False):
        curve = probability_curve(table)
        if curve is None:
            continue
        shares = table.shares
        axes.step(
            curve[0],
            100 * curve[1],
            where="post",
            label=f"{figure_text(name)}: {100 * shares.misclassified:.0f} % misclassified, "
            f"{100 * shares.abstained:.0f} % abstained",
            color=colour,
            ls=style,
            # Of many images the bound is just 1/2, where a grid of radii begins.
            **_START,
        )
    axes.set_xlim(0.4925, 1)
    axes.set_xlabel("p (probability of the class under noise)")
    axes.set_ylabel("Correct images with p_A ≥ p (%)")
    axes.legend(fontsize="small")
    return figure


def training_curves_figure(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw each loss term over the epochs, in a panel of its own.

    Args:
        history: one row an epoch with "epoch", counted through both phases; "total"; of a denoiser
            "phase", 1 or 2, and the terms "label_consistency", "cosine_similarity", "mmd" and
            "discriminator" (None in phase 1); of a classifier "cross_entropy",
            "runner_up_cross_entropy" (None without it) and "accuracy".
    """
    panels = {
        term: title
        for term, title in LOSS_TITLES.items()
        if any(row.get(term) is not None for row in history)
    }
    boundary = _phase_boundary(history)
    columns = 3
    figure = Figure(figsize=(9.6, 2.7 * max(1, -(-len(panels) // columns))), layout="constrained")
    for position, (term, title) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(-(-len(panels) // columns), columns, position)
        rows = [row for row in history if row.get(term) is not None]
        axes.plot(
            [row["epoch"] for row in rows],
            [row[term] for row in rows],
            lw=1.2,
            color=_COLOURS[0],
            marker="." if len(history) <= _MOST_MARKED_EPOCHS else None,
            ms=4,
        )
        _finish_panel(axes, title, history, boundary)
    return figure


def sample_grid_figure(
    rows: Mapping[str, tuple[ArrayLike, ArrayLike]],
    labels: ArrayLike,
    class_names: Sequence[str],
    *,
    title: str,
) -> Figure:
    """Draw pictures in a grid, a row a kind, with the prediction under each and wrong ones marked.

    Args:
        rows: for each kind its images, floats [B, C, H, W] with C 1 or 3, drawn as if cut off to
            [0,1]; and the classifier's predictions, integers [B].
        labels: true classes [B], written above each column.
        class_names: in the order of the predictions.
    """
    true = np.asarray(labels)
    columns = len(true)
    # In a layout of our own: one that matplotlib finds takes seconds for so many axes.
    left, above, below, gap = 1.05, 0.62, 0.3, 0.27
    right = max(0.15, _LEAST_GRID_INCHES - left - columns * _PICTURE_INCHES)
    width = left + columns * _PICTURE_INCHES + right
    height = above + len(rows) * (_PICTURE_INCHES + gap) - gap + below
    figure = Figure(figsize=(width, height))
    figure.suptitle(figure_text(title), fontsize="medium", y=1 - 0.12 / height, va="top")
    axes = figure.subplots(
        len(rows),
        columns,
        squeeze=False,
        gridspec_kw={
            "left": left / width,
            "right": 1 - right / width,
            "top": 1 - above / height,
            "bottom": below / height,
            "wspace": 0.06,
            "hspace": gap / _PICTURE_INCHES,
        },
    )
    for row, (kind, (images, predictions)) in zip(axes, rows.items(), strict=True):
        predicted = np.asarray(predictions)
        if len(np.asarray(images)) != columns or predicted.shape != true.shape:
            raise InputError(
                f"{kind}: {len(np.asarray(images))} images and predictions {predicted.shape} must "
                f"be as many as labels, {columns}."
            )
        row[0].set_ylabel(figure_text(kind), rotation=0, ha="right", va="center", labelpad=6)
        for panel, picture, prediction, label in zip(
            row, _pictures(images), predicted, true, strict=True
        ):
            _draw_picture(panel, picture, class_names[prediction], wrong=prediction != label)
    for panel, label in zip(axes[0], true, strict=True):
        panel.set_title(_class_name(class_names[label]), fontsize="small", pad=4)
    return figure


def embedding_figure(groups: Mapping[str, ArrayLike], *, title: str) -> Figure:
    """Draw points of the plane, each group in its own colour and shape.

    Args:
        groups: points by name, floats [n, 2] in arbitrary units.
    """
    figure = Figure(figsize=(5.0, 5.2), layout="constrained")
    axes = figure.add_subplot()
    for (name, points), colour, marker in zip(
        groups.items(), cycle(_COLOURS), cycle(_MARKERS), strict=False
    ):
        across, up = np.asarray(points).T
        axes.scatter(
            across, up, s=26, color=colour, marker=marker, alpha=0.75, lw=0, label=figure_text(name)
        )
    # Of an embedding only nearness means something.
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.06)
    axes.set_title(figure_text(title), fontsize="medium")
    figure.legend(loc="outside lower center", ncols=len(groups), frameon=False, handletextpad=0.1)
    return figure


def _axes_of_shares(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_ylim(0, 100)
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    return figure, axes


def _pictures(images: ArrayLike) -> Iterator[NDArray[np.float64]]:
    pixels = np.asarray(images, dtype=np.float64).clip(0, 1)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        raise InputError(f"images {pixels.shape} must be [B, C, H, W] with 1 or 3 channels.")
    # Colour of a grey image: the same in all three channels.
    yield from np.broadcast_to(pixels, (pixels.shape[0], 3, *pixels.shape[2:])).transpose(
        0, 2, 3, 1
    )


def _draw_picture(axes: Axes, picture: NDArray[np.float64], name: str, *, wrong: bool) -> None:
    axes.imshow(picture, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(
        f"✗ {_class_name(name)}" if wrong else _class_name(name),
        fontsize="small",
        labelpad=2,
        color=_WRONG if wrong else "0.2",
        weight="bold" if wrong else "normal",
    )
    axes.spines[:].set_color(_WRONG if wrong else "0.7")
    axes.spines[:].set_linewidth(2 if wrong else 0.8)


def _class_name(name: str) -> str:
    short = name if len(name) <= _NAME_CHARACTERS else f"{name[: _NAME_CHARACTERS - 1]}…"
    return figure_text(short)


def _phase_boundary(history: Sequence[Mapping[str, Any]]) -> float | None:
    first = [row["epoch"] for row in history if row.get("phase") == 1]
    second = [row["epoch"] for row in history if row.get("phase") == 2]
    return (max(first) + min(second)) / 2 if first and second else None


def _finish_panel(
    axes: Axes, title: str, history: Sequence[Mapping[str, Any]], boundary: float | None
) -> None:
    epochs = [row["epoch"] for row in history]
    axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_xlabel("Epoch")
    # Room beside a title is not kept by the layout: of more than one line, above it is.
    axes.set_title(textwrap.fill(title, _TITLE_CHARACTERS), fontsize="medium")
    axes.grid(alpha=0.3)
    if boundary is not None:
        axes.margins(y=0.14)  # Room for the labels above a flat curve.
        axes.axvline(boundary, color="0.4", ls="--", lw=1)
        share = (boundary - axes.get_xlim()[0]) / (axes.get_xlim()[1] - axes.get_xlim()[0])
        for phase, room, points_away, alignment in (
            ("phase 1", share, -3, "right"),
            ("phase 2", 1 - share, 3, "left"),
        ):
            if room < _LEAST_NAMED_PHASE:
                continue
            axes.annotate(
                phase,
                (boundary, 1),
                xycoords=("data", "axes fraction"),
                xytext=(points_away, -3),
                textcoords="offset points",
                ha=alignment,
                va="top",
                fontsize="x-small",
                color="0.3",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
            )
