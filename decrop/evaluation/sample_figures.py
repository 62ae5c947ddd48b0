"""Figures of the limited data, of the samples made of them, and of their features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from decrop.classifiers.classifier import Classifier
from decrop.errors import InputError
from decrop.evaluation.plots import embedding_figure, sample_grid_figure
from decrop.seeds import derive_seed, torch_generator
from decrop.synthesis.synthetic_samples import SyntheticSamples

# Neighbours that count for a point, where there are enough points (van der Maaten's own default).
_PERPLEXITY = 30.0


def t_sne(features: ArrayLike, *, seed: int) -> NDArray[np.float64]:
    """Embed features in the plane so that near ones stay near; distances far apart mean little.

    The gradient is the exact one, whose sums do not depend on the number of threads, so equal
    arguments give equal points. Its cost grows with the square of n: for some hundreds of points.

    Source: van der Maaten and Hinton 2008, as scikit-learn computes it.

    Args:
        features: floats [n, F], n >= 3, F >= 2.
        seed: of the initialisation.

    Returns:
        float64 [n, 2] in arbitrary units; all 0 where the features are all equal.
    """
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] < 3 or values.shape[1] < 2:
        raise InputError(f"features {values.shape} must be at least 3 points of 2 features each.")
    if (values == values[0]).all():
        return np.zeros((len(values), 2))
    # Imported where it is used: it takes a second, which drawing other figures can do without.
    from sklearn.manifold import TSNE

    perplexity = min(_PERPLEXITY, (len(values) - 1) / 3)
    embedding = TSNE(perplexity=perplexity, init="pca", method="exact", random_state=seed % 2**32)
    return np.asarray(embedding.fit_transform(values), dtype=np.float64)


_PICTURES = 8
# Three points an image; the embedding's cost grows with the square of their number.
_EMBEDDED_IMAGES = 100


@dataclass(frozen=True)
class PicturedSamples:
    """Samples of n limited images, and what they are shown with.

    Attributes:
        labels: true classes of the images, int64 [n].
        classifier: whose predictions and features are shown.
        seed: of noise and embedding.
    """

    samples: SyntheticSamples
    labels: Tensor
    classifier: Classifier
    class_names: Sequence[str]
    seed: int
    device: torch.device


def samples_figure(shown: PicturedSamples, denoiser: nn.Module, *, sigma: float) -> Figure:
    """Draw some images clean, on the boundary, interpolated, noisy, and denoised.

    They are the first of each class, then the second, and so on, up to eight. The classifier's
    predictions stand under them.

    Args:
        denoiser: noisy images [B, C, H, W] to images of the same shape; set to eval mode.
        sigma: standard deviation of the noise, in [0,1] pixels.
    """
    samples, device = shown.samples, shown.device
    chosen = _spread_over_classes(shown.labels.numpy())
    clean = samples.clean[chosen]
    noisy, denoised = noisy_and_denoised(
        clean, denoiser, sigma=sigma, generator=picture_noise(shown.seed), device=device
    )
    classifier = shown.classifier.to(device)
    with torch.inference_mode():
        rows = {
            "clean": clean,
            "boundary": samples.boundary[chosen],
            "interpolated": _interpolated(samples)[chosen],
            "noisy": noisy,
            "denoised": denoised,
        }
        predictions = {
            kind: classifier(images.to(device)).argmax(1).cpu() for kind, images in rows.items()
        }
    return sample_grid_figure(
        {kind: (images.numpy(), predictions[kind].numpy()) for kind, images in rows.items()},
        shown.labels[chosen].numpy(),
        shown.class_names,
        title=f"Limited data: class above, prediction below (✗ wrong); σ = {sigma:g}",
    )


def picture_noise(seed: int) -> torch.Generator:
    """Return where the noise of pictures comes from."""
    return torch_generator(seed, "pictures")


def noisy_and_denoised(
    clean: Tensor,
    denoiser: nn.Module,
    *,
    sigma: float,
    generator: torch.Generator,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Return images with noise, and what a denoiser makes of them.

    Args:
        clean: [B, C, H, W] in [0,1].
        denoiser: noisy images [B, C, H, W] to images of the same shape; set to eval mode.
        sigma: standard deviation of the noise, in [0,1] pixels.
        generator: of the noise (`picture_noise`).
    """
    noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
    denoiser = denoiser.to(device).eval()
    with torch.inference_mode():
        return noisy, denoiser(noisy.to(device)).cpu()


def features_figure(shown: PicturedSamples, shown_class: int | None = None) -> Figure:
    """Draw the classifier's features of one class's clean, boundary and interpolated samples.

    Embedded together by t-SNE (DE-CROP, figure 2); of the first hundred images, if there are more.

    Args:
        shown_class: a class of the labels; that of most images if not given.
    """
    samples, device = shown.samples, shown.device
    if shown_class is None:
        shown_class = int(shown.labels.bincount().argmax())
    chosen = torch.nonzero(shown.labels == shown_class).flatten()[:_EMBEDDED_IMAGES]
    groups = {
        "limited": samples.clean[chosen],
        "boundary": samples.boundary[chosen],
        "interpolated": _interpolated(samples)[chosen],
    }
    classifier = shown.classifier.to(device)
    with torch.inference_mode():
        features = [
            classifier.logits_and_features(images.to(device))[1].cpu() for images in groups.values()
        ]
    points = t_sne(torch.cat(features).numpy(), seed=derive_seed(shown.seed, "t-SNE"))
    return embedding_figure(
        dict(zip(groups, np.split(points, len(groups)), strict=True)),
        title=f"t-SNE of the classifier's features, class {shown.class_names[shown_class]}",
    )


def _interpolated(samples: SyntheticSamples) -> Tensor:
    # Where there are several, the one in the middle of the mixing coefficients.
    return samples.interpolated[len(samples.interpolated) // 2]


def _spread_over_classes(labels: NDArray[np.int64]) -> Tensor:
    place_in_class = pd.Series(labels).groupby(labels).cumcount()
    chosen = np.lexsort((labels, place_in_class))[:_PICTURES]
    # Images of one class stand together.
    return torch.from_numpy(chosen[np.argsort(labels[chosen], kind="stable")])
