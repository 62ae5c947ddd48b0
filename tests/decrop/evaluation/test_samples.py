"""The pictures are of the samples that they are named after, and so are their predictions."""

import dataclasses

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from decrop.cache import ContentCache
from decrop.evaluation import sample_figures as module
from decrop.evaluation.sample_figures import PicturedSamples, features_figure, samples_figure
from decrop.synthesis.synthetic_samples import SyntheticSamples, synthetic_samples
from decrop.trial.inputs import TrialInputs
from tests.decrop.digits_trial import CPU, short_trial

SIGMA = 0.25
KINDS = ["clean", "boundary", "interpolated", "noisy", "denoised"]


class Halving(nn.Module):
    """A denoiser whose output is known, and wrong in training mode."""

    def forward(self, images: Tensor) -> Tensor:
        return images * (-1.0 if self.training else 0.5)


@pytest.fixture
def samples(inputs: TrialInputs, cache: ContentCache) -> SyntheticSamples:
    config = short_trial("interpolation.count=3")
    return synthetic_samples(config, inputs.classifier, inputs.limited, cache=cache, device=CPU)


def pictured(inputs: TrialInputs, samples: SyntheticSamples, seed: int = 0) -> PicturedSamples:
    labels = inputs.limited.all.labels
    return PicturedSamples(samples, labels, inputs.classifier, inputs.class_names, seed, CPU)


def drawn_samples(inputs: TrialInputs, samples: SyntheticSamples, seed: int = 0) -> Figure:
    return samples_figure(pictured(inputs, samples, seed), Halving(), sigma=SIGMA)


def drawn_features(inputs: TrialInputs, samples: SyntheticSamples, shown_class: int = 3) -> Figure:
    return features_figure(pictured(inputs, samples), shown_class)


def rows_of(figure: Figure) -> dict[str, list[Axes]]:
    rows = [figure.axes[start : start + 8] for start in range(0, len(figure.axes), 8)]
    return {row[0].get_ylabel(): row for row in rows}


def picture(axes: Axes) -> np.ndarray:
    (image,) = axes.images
    return np.asarray(image.get_array())[:, :, 0]


def points(figure: Figure) -> dict[str, np.ndarray]:
    (axes,) = figure.axes
    return {str(group.get_label()): np.asarray(group.get_offsets()) for group in axes.collections}


def test_each_row_shows_the_samples_of_its_name(
    inputs: TrialInputs, samples: SyntheticSamples
) -> None:
    rows = rows_of(drawn_samples(inputs, samples))
    assert list(rows) == KINDS
    # The first image of each class, by class.
    labels = inputs.limited.all.labels
    first = [int(torch.nonzero(labels == label)[0]) for label in range(8)]
    for kind, tensor in {
        "clean": samples.clean,
        "boundary": samples.boundary,
        "interpolated": samples.interpolated[1],
    }.items():
        for axes, index in zip(rows[kind], first, strict=True):
            assert np.allclose(picture(axes), tensor[index, 0].numpy()), kind
    assert [axes.get_title() for axes in rows["clean"]] == list(inputs.class_names[:8])


def test_the_denoiser_gets_the_noisy_pictures_in_eval_mode(
    inputs: TrialInputs, samples: SyntheticSamples
) -> None:
    rows = rows_of(drawn_samples(inputs, samples))
    for noisy, denoised in zip(rows["noisy"], rows["denoised"], strict=True):
        inside = picture(noisy) < 1
        assert np.allclose(picture(denoised)[inside], picture(noisy)[inside] / 2)


@pytest.mark.slow
def test_noise_has_the_given_deviation_and_seed(
    inputs: TrialInputs, samples: SyntheticSamples
) -> None:
    drawn = [rows_of(drawn_samples(inputs, samples, seed)) for seed in (0, 0, 1)]
    one, same, other = (np.stack([picture(axes) for axes in rows["noisy"]]) for rows in drawn)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    clean = np.stack([picture(axes) for axes in drawn[0]["clean"]])
    inside = (one > 0) & (one < 1) & (clean > 0.4) & (clean < 0.6)
    # Cut off at two deviations, which leaves 0.88 of one.
    assert (one - clean)[inside].std() == pytest.approx(0.88 * SIGMA, rel=0.25)


def test_predictions_are_the_classifiers_and_wrong_ones_are_marked(
    inputs: TrialInputs, samples: SyntheticSamples
) -> None:
    rows = rows_of(drawn_samples(inputs, samples))
    wrong = 0
    for kind in ("clean", "boundary", "interpolated"):
        for label, axes in enumerate(rows[kind]):
            pixels = torch.from_numpy(picture(axes).astype(np.float32))
            predicted = int(inputs.classifier(pixels[None, None]).argmax())
            expected = str(predicted) if predicted == label else f"✗ {predicted}"
            assert axes.get_xlabel() == expected
            wrong += predicted != label
    assert 0 < wrong < 24


def test_with_few_classes_there_are_more_images_of_each(
    inputs: TrialInputs, samples: SyntheticSamples
) -> None:
    two = inputs.limited.all.labels < 2
    limited = dataclasses.replace(inputs.limited, all=inputs.limited.all.subset(two))
    figure = drawn_samples(dataclasses.replace(inputs, limited=limited), samples.subset(two))
    titles = [axes.get_title() for axes in rows_of(figure)["clean"]]
    assert titles == ["0"] * 4 + ["1"] * 4


def test_features_are_of_one_class_in_three_groups(
    inputs: TrialInputs, samples: SyntheticSamples
) -> None:
    figure = drawn_features(inputs, samples)
    members = int((inputs.limited.all.labels == 3).sum())
    groups = points(figure)
    assert list(groups) == ["limited", "boundary", "interpolated"]
    assert {len(group) for group in groups.values()} == {members}
    assert figure.axes[0].get_title().endswith("class 3")
    other = points(drawn_features(inputs, samples, shown_class=4))
    assert not np.array_equal(other["limited"], groups["limited"])


def test_of_many_images_the_first_are_embedded(
    inputs: TrialInputs, samples: SyntheticSamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_EMBEDDED_IMAGES", 2)
    assert {len(group) for group in points(drawn_features(inputs, samples)).values()} == {2}
