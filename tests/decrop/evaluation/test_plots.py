import io
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from decrop.evaluation.accuracy import certified_accuracy, exact_interval
from decrop.evaluation.plots import certified_accuracy_figure, training_curves_figure

PREDICTION = np.array([3, -1, 4, 7, 8, 1])
RADIUS = np.array([0.378, 0.0, 0.341, 0.941, 0.755, 0.9])
LABELS = np.array([3, 7, 4, 7, 8, 2])


def pixels(figure: Figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    buffer.seek(0)
    return np.asarray(imread(buffer))


def history(phase_two: bool = True) -> list[dict[str, float | int | None]]:
    return [
        {
            "epoch": epoch,
            "phase": 1 if epoch <= 6 else 2,
            "label_consistency": 2 / epoch,
            "cosine_similarity": 1 - 1 / epoch,
            "mmd": 1 / epoch,
            "discriminator": None if epoch <= 6 else 0.7,
            "total": 1 / epoch,
            "learning_rate": 0.001,
        }
        for epoch in range(1, 11 if phase_two else 7)
    ]


def test_the_drawn_steps_are_the_certified_accuracies() -> None:
    figure = certified_accuracy_figure({"ours": (PREDICTION, RADIUS, LABELS)}, 1.0)
    (axes,) = figure.axes
    (line,) = axes.lines
    assert line.get_drawstyle() == "steps-pre"
    radii, percent = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    # In steps-pre the value between two points is that of the right one.
    for radius in np.linspace(0, 1, 401):
        drawn = percent[np.searchsorted(radii, radius, side="left")]
        expected = 100 * certified_accuracy(PREDICTION, RADIUS, LABELS, [radius])[0]
        assert drawn == pytest.approx(expected)


def test_the_band_is_the_exact_interval_of_each_step() -> None:
    figure = certified_accuracy_figure({"ours": (PREDICTION, RADIUS, LABELS)}, 1.0)
    (band,) = figure.axes[0].collections
    corners = np.asarray(band.get_paths()[0].vertices)
    # The image that is wrong makes no step but stands among the radii.
    radii = [0.0, 0.341, 0.378, 0.755, 0.9, 0.941, 1.0]
    for successes, left, right in zip([4, 3, 2, 1, 1, 0], radii[:-1], radii[1:], strict=True):
        for end in exact_interval(successes, 6):
            assert np.isclose(corners, [left, 100 * float(end)]).all(axis=1).any()
            assert np.isclose(corners, [right, 100 * float(end)]).all(axis=1).any()


def test_radii_beyond_the_axis_count_up_to_its_end() -> None:
    figure = certified_accuracy_figure({"ours": (PREDICTION, RADIUS, LABELS)}, 0.5)
    (line,) = figure.axes[0].lines
    assert np.asarray(line.get_xdata()).max() == 0.5
    assert np.asarray(line.get_ydata())[-1] == pytest.approx(100 * 2 / 6)


def test_curves_are_named_and_axes_labelled() -> None:
    curve = (PREDICTION, RADIUS, LABELS)
    figure = certified_accuracy_figure({"best denoiser": curve, "no denoiser": curve}, 1.0)
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["best denoiser", "no denoiser"]
    assert "radius" in axes.get_xlabel()
    assert "Certified accuracy" in axes.get_ylabel()
    assert len(np.unique(pixels(figure))) > 10


def test_every_loss_term_has_a_panel_with_its_values_and_the_phase_boundary() -> None:
    figure = training_curves_figure(history())
    assert len(figure.axes) == 5
    panels = {axes.get_title(): axes for axes in figure.axes}
    values, boundary = panels["Label consistency loss"].lines
    assert list(np.asarray(values.get_ydata())) == [2 / epoch for epoch in range(1, 11)]
    assert set(np.asarray(boundary.get_xdata()).tolist()) == {6.5}
    discriminator = panels["Domain discriminator loss"].lines[0]
    assert list(np.asarray(discriminator.get_xdata())) == [7, 8, 9, 10]
    assert all(axes.get_xlabel() == "Epoch" for axes in figure.axes)
    assert len(np.unique(pixels(figure))) > 10


def test_without_second_phase_there_is_no_boundary_and_no_discriminator() -> None:
    figure = training_curves_figure(history(phase_two=False))
    assert len(figure.axes) == 4
    assert all(len(axes.lines) == 1 for axes in figure.axes)


def test_drawing_needs_no_global_state() -> None:
    program = "import sys, decrop.evaluation.plots; print('matplotlib.pyplot' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
