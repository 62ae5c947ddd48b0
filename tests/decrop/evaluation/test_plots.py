import io
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy.stats import norm

from decrop.errors import InputError
from decrop.evaluation.accuracy import certified_accuracy, exact_interval
from decrop.evaluation.plots import (
    LOSS_TITLES,
    certificates_figure,
    embedding_figure,
    probabilities_figure,
    sample_grid_figure,
    training_curves_figure,
)
from decrop.evaluation.table import CertificateTable
from decrop.smoothing.certificates import ABSTAIN
from tests.decrop.evaluation.test_record import record

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


OURS = CertificateTable(np.arange(6), LABELS, PREDICTION, RADIUS, RADIUS)


def table(radius: np.ndarray) -> CertificateTable:
    count = len(radius)
    return CertificateTable(np.arange(count), LABELS[:count], LABELS[:count], radius, radius)


def test_the_drawn_steps_are_the_certified_accuracies() -> None:
    figure = certificates_figure({"ours": OURS}, 1.0)
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
    figure = certificates_figure({"ours": OURS}, 1.0)
    (band,) = figure.axes[0].collections
    corners = np.asarray(band.get_paths()[0].vertices)
    # The image that is wrong makes no step but stands among the radii.
    radii = [0.0, 0.341, 0.378, 0.755, 0.9, 0.941, 1.0]
    for successes, left, right in zip([4, 3, 2, 1, 1, 0], radii[:-1], radii[1:], strict=True):
        for end in exact_interval(successes, 6):
            assert np.isclose(corners, [left, 100 * float(end)]).all(axis=1).any()
            assert np.isclose(corners, [right, 100 * float(end)]).all(axis=1).any()


def test_radii_beyond_the_axis_count_up_to_its_end() -> None:
    figure = certificates_figure({"ours": OURS}, 0.5)
    (line,) = figure.axes[0].lines
    assert np.asarray(line.get_xdata()).max() == 0.5
    assert np.asarray(line.get_ydata())[-1] == pytest.approx(100 * 2 / 6)


def test_curves_are_named_and_axes_labelled() -> None:
    figure = certificates_figure({"best denoiser": OURS, "no denoiser": OURS}, 1.0)
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["best denoiser", "no denoiser"]
    assert "radius" in axes.get_xlabel()
    assert "Certified accuracy" in axes.get_ylabel()
    assert len(np.unique(pixels(figure))) > 10


def test_many_rows_can_be_told_apart() -> None:
    figure = certificates_figure({f"trial {number}": OURS for number in range(28)}, 1.0)
    (axes,) = figure.axes
    assert len(axes.lines) == len(axes.collections) == 28
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 28
    assert len({line.get_color() for line in axes.lines[:7]}) == 7


def test_tables_are_drawn_until_they_certify_nothing() -> None:
    (axes,) = certificates_figure({"one": table(RADIUS), "other": table(2 * RADIUS)}).axes
    assert [line.get_label() for line in axes.lines] == ["one", "other"]
    assert axes.get_xlim()[1] == pytest.approx(1.05 * 2 * RADIUS.max())
    # All are right, so the last step is at the largest radius.
    assert [np.asarray(line.get_ydata())[-1] for line in axes.lines] == [0, 0]
    (empty,) = certificates_figure({"nothing certified": table(0 * RADIUS)}).axes
    assert empty.get_xlim()[1] == 0.25


def test_a_table_without_images_is_refused() -> None:
    with pytest.raises(InputError, match="other: there are no certificates"):
        certificates_figure({"one": table(RADIUS), "other": table(RADIUS[:0])})


def test_the_distribution_of_p_a_is_that_of_the_correct_images() -> None:
    bounds = np.array([0.6, 0.9, 0.99, 0.8, 0.5])
    known = CertificateTable(
        idx=np.arange(5),
        label=np.array([1, 1, 1, 1, 1]),
        predict=np.array([1, 1, 1, 2, ABSTAIN]),
        radius=0.5 * norm.ppf(bounds),
        seconds=np.zeros(5),
        record=record(sigma=0.5),
    )
    assert known.probability is not None
    assert known.probability.tolist() == pytest.approx([0.6, 0.9, 0.99, 0.8, 0.0])
    of_no_sigma, of_several = replace(known, record=None), replace(known, sigma=np.full(5, 0.5))
    (axes,) = probabilities_figure({"x": known, "y": of_no_sigma, "z": of_several}).axes
    (line,) = axes.lines
    assert line.get_label() == "x: 20 % misclassified, 20 % abstained"
    # Drawn so that each value holds from its probability up to the next.
    assert line.get_drawstyle() == "steps-post"
    assert np.asarray(line.get_xdata()).tolist() == pytest.approx([0.5, 0.6, 0.9, 0.99, 1.0])
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx([60, 40, 20, 0, 0])


def test_every_loss_term_has_a_panel_with_its_values_and_the_phase_boundary() -> None:
    figure = training_curves_figure(history())
    assert len(figure.axes) == 5
    panels = {axes.get_title(): axes for axes in figure.axes}
    values, boundary = panels["Label consistency loss"].lines
    for axes in figure.axes:
        assert [text.get_text() for text in axes.texts] == ["phase 1", "phase 2"]
    assert list(np.asarray(values.get_ydata())) == [2 / epoch for epoch in range(1, 11)]
    assert set(np.asarray(boundary.get_xdata()).tolist()) == {6.5}
    discriminator = panels["Domain discriminator loss"].lines[0]
    assert list(np.asarray(discriminator.get_xdata())) == [7, 8, 9, 10]
    assert all(axes.get_xlabel() == "Epoch" for axes in figure.axes)
    assert len(np.unique(pixels(figure))) > 10


def test_without_second_phase_there_is_no_boundary_and_no_discriminator() -> None:
    figure = training_curves_figure(history(phase_two=False))
    assert len(figure.axes) == 4
    assert all(len(axes.lines) == 1 and not axes.texts for axes in figure.axes)


def test_texts_of_every_panel_stay_beside_those_of_others() -> None:
    terms = dict.fromkeys(LOSS_TITLES, 1.0)
    rows = [{"epoch": n, "phase": min(n, 2), **terms} for n in range(1, 600)]
    figure = training_curves_figure(rows)
    figure.draw_without_rendering()
    assert len(figure.axes) == len(LOSS_TITLES)
    for axes in figure.axes:
        assert axes.title.get_window_extent().x1 <= figure.bbox.x1
        assert axes.title.get_window_extent().width <= figure.bbox.width / 3
        # Of one epoch, phase 1 has no room for its name.
        assert [text.get_text() for text in axes.texts] == ["phase 2"]


def grid(channels: int = 1, images: int = 3) -> Figure:
    pictures = np.linspace(-0.5, 1.5, images * channels * 16).reshape(images, channels, 4, 4)
    rows = {"clean": (pictures, [0, 1, 1]), "noisy": (1 - pictures, [1, 1, 0])}
    return sample_grid_figure(rows, [0, 1, 0], ["cat", "golden retriever"], title="Samples")


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_has_a_row_a_kind_and_a_column_a_picture(channels: int) -> None:
    figure = grid(channels)
    assert len(figure.axes) == 6
    assert [figure.axes[0].get_ylabel(), figure.axes[3].get_ylabel()] == ["clean", "noisy"]
    assert [axes.get_title() for axes in figure.axes[:3]] == ["cat", "golden ret…", "cat"]
    assert figure.get_suptitle() == "Samples"
    for axes in figure.axes:
        (image,) = axes.images
        shown = np.asarray(image.get_array())
        assert shown.shape == (4, 4, 3)
        assert shown.min() >= 0 and shown.max() <= 1
    assert len(np.unique(pixels(figure))) > 10


def test_wrong_predictions_are_marked_by_sign_and_colour() -> None:
    axes = grid().axes
    names = [panel.get_xlabel() for panel in axes]
    assert names == ["cat", "golden ret…", "✗ golden ret…", "✗ golden ret…", "golden ret…", "cat"]
    colours = {panel.spines["left"].get_edgecolor() for panel in axes}
    marked = {axes[2].spines["left"].get_edgecolor(), axes[3].spines["left"].get_edgecolor()}
    assert len(colours) == 2 and len(marked) == 1


def test_nothing_in_the_grid_overlaps_or_is_cut_off() -> None:
    figure = grid()
    pixels(figure)
    # Each picture with its texts.
    tight = [panel.get_tightbbox() for panel in figure.axes]
    boxes = [box.shrunk(0.999, 0.999) for box in tight if box is not None]
    assert len(boxes) == len(figure.axes)
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
        assert figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1)
        assert figure.bbox.containsy(box.y0) and figure.bbox.containsy(box.y1)


@pytest.mark.parametrize("arguments", [{"channels": 2}, {"images": 2}, {"images": 4}])
def test_a_grid_of_other_shapes_is_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(InputError, match="must be"):
        grid(**arguments)


def test_groups_of_an_embedding_have_a_colour_and_a_shape_each() -> None:
    groups = {"limited": [[0, 1], [2, 3]], "boundary": [[4, 5]], "interpolated": [[6, 7]]}
    figure = embedding_figure(groups, title="t-SNE")
    (axes,) = figure.axes
    for (name, points), drawn in zip(groups.items(), axes.collections, strict=True):
        assert drawn.get_label() == name
        assert np.asarray(drawn.get_offsets()).tolist() == points
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(groups)
    colours = {np.asarray(drawn.get_facecolor()).tobytes() for drawn in axes.collections}
    shapes = {drawn.get_paths()[0].vertices.tobytes() for drawn in axes.collections}  # type: ignore[union-attr]
    assert len(colours) == len(shapes) == 3
    assert axes.get_title() == "t-SNE"
    assert len(np.unique(pixels(figure))) > 10


@pytest.mark.slow
def test_drawing_needs_no_global_state() -> None:
    program = "import sys, decrop.evaluation.plots; print('matplotlib.pyplot' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
