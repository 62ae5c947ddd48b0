"""Figures of the limited data, of what was made of them, and of what a classifier sees in them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from decrop.classifiers.classifier import Classifier
from decrop.evaluation.embedding import t_sne
from decrop.evaluation.plots import embedding_figure, sample_grid_figure
from decrop.seeds import derive_seed, torch_generator
from decrop.synthesis.stage_one import StageOne

_PICTURES = 8
# Three points an image; the embedding's cost grows with the square of their number.
_EMBEDDED_IMAGES = 100


def samples_figure(
    samples: StageOne,
    labels: Tensor,
    classifier: Classifier,
    denoiser: nn.Module,
    class_names: Sequence[str],
    *,
    sigma: float,
    seed: int,
    device: torch.device,
) -> Figure:
    """Draw some images clean, on the boundary, interpolated, noisy, and denoised.

    They are the first of each class, then the second, and so on, up to eight.

    Args:
        samples: of n limited images.
        labels: their true classes, int64 [n].
        classifier: whose predictions stand under the pictures.
        denoiser: noisy images [B, C, H, W] to images of the same shape; set to eval mode.
        class_names: in the order of the logits.
        sigma: standard deviation of the noise, in [0,1] pixels.
        seed: of the noise.
        device: where to compute.
    """
    chosen = _spread_over_classes(labels.numpy())
    clean = samples.clean[chosen]
    noise = torch.randn(clean.shape, generator=torch_generator(seed, "pictures"))
    noisy = clean + sigma * noise
    classifier, denoiser = classifier.to(device), denoiser.to(device).eval()
    with torch.inference_mode():
        rows = {
            "clean": clean,
            "boundary": samples.boundary[chosen],
            "interpolated": _interpolated(samples)[chosen],
            "noisy": noisy,
            "denoised": denoiser(noisy.to(device)).cpu(),
        }
        predictions = {
            kind: classifier(images.to(device)).argmax(1).cpu() for kind, images in rows.items()
        }
    return sample_grid_figure(
        {kind: (images.numpy(), predictions[kind].numpy()) for kind, images in rows.items()},
        labels[chosen].numpy(),
        class_names,
        title=f"Limited data: class above, prediction below (✗ wrong); σ = {sigma:g}",
    )


def features_figure(
    samples: StageOne,
    labels: Tensor,
    classifier: Classifier,
    class_names: Sequence[str],
    *,
    shown_class: int,
    seed: int,
    device: torch.device,
) -> Figure:
    """Draw the classifier's features of one class's clean, boundary and interpolated samples.

    Embedded together by t-SNE (DE-CROP, figure 2); of the first hundred images, if there are more.

    Args:
        samples: of n limited images.
        labels: their true classes, int64 [n].
        classifier: whose penultimate features are taken.
        class_names: in the order of the logits.
        shown_class: a class of `labels`.
        seed: of the embedding.
        device: where to compute.
    """
    chosen = torch.nonzero(labels == shown_class).flatten()[:_EMBEDDED_IMAGES]
    groups = {
        "limited": samples.clean[chosen],
        "boundary": samples.boundary[chosen],
        "interpolated": _interpolated(samples)[chosen],
    }
    classifier = classifier.to(device)
    with torch.inference_mode():
        features = [
            classifier.logits_and_features(images.to(device))[1].cpu() for images in groups.values()
        ]
    points = t_sne(torch.cat(features).numpy(), seed=derive_seed(seed, "t-SNE"))
    return embedding_figure(
        dict(zip(groups, np.split(points, len(groups)), strict=True)),
        title=f"t-SNE of the classifier's features, class {class_names[shown_class]}",
    )


def _interpolated(samples: StageOne) -> Tensor:
    # Where there are several, the one in the middle of the mixing coefficients.
    return samples.interpolated[len(samples.interpolated) // 2]


def _spread_over_classes(labels: NDArray[np.int64]) -> Tensor:
    place_in_class = pd.Series(labels).groupby(labels).cumcount()
    chosen = np.lexsort((labels, place_in_class))[:_PICTURES]
    # Images of one class stand together.
    return torch.from_numpy(chosen[np.argsort(labels[chosen], kind="stable")])
