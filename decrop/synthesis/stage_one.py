"""Stage 1: all samples of the limited data, from the cache or made now."""

from dataclasses import dataclass

import torch
from torch import Tensor

from decrop.cache import ContentCache, Tensors
from decrop.classifiers.classifier import Classifier
from decrop.config import BoundarySettings, InterpolationSettings
from decrop.data.limited import LabelledImages
from decrop.synthesis.boundary import boundary_samples, flipped
from decrop.synthesis.interpolate import (
    interpolated_logits,
    interpolated_samples,
    mixing_coefficients,
)

# Changed when the computation changes, so that an old cache is not taken for a new one.
_VERSION = 1
INTERPOLATED = "interpolated"


@dataclass(frozen=True)
class StageOne:
    """The samples of n limited images, float32 in [0,1].

    Attributes:
        clean: [n, C, H, W].
        boundary: [n, C, H, W].
        flipped: bool [n], whether the boundary sample changed the prediction.
        interpolated: [count, n, C, H, W].
    """

    clean: Tensor
    boundary: Tensor
    flipped: Tensor
    interpolated: Tensor

    def subset(self, mask: Tensor) -> "StageOne":
        """Return the samples of the images where `mask` (bool [n]) is true."""
        return StageOne(
            self.clean[mask], self.boundary[mask], self.flipped[mask], self.interpolated[:, mask]
        )

    @property
    def flip_rate(self) -> float:
        """Share of images whose boundary sample changed the prediction."""
        return self.flipped.float().mean().item()


def stage_one(
    classifier: Classifier,
    limited: LabelledImages,
    boundary_settings: BoundarySettings,
    interpolation_settings: InterpolationSettings,
    *,
    seed: int,
    cache: ContentCache,
    device: torch.device,
) -> StageOne:
    """Make boundary and interpolated samples of the limited data, or take them from the cache.

    Boundary samples are cached apart from interpolated ones, so trials that differ in the mixing
    coefficient alone share them.
    """
    classifier = classifier.to(device)
    clean = limited.images.float() / 255
    made_from = {
        "version": _VERSION,
        "classifier": classifier.content_hash(),
        "data": limited.content_hash(),
        # What to do about failures does not change the samples.
        "boundary": boundary_settings.model_dump(exclude={"on_failure"}),
        "seed": seed,
    }

    def make_boundary() -> Tensors:
        samples = boundary_samples(
            classifier, clean, limited.labels, boundary_settings, seed=seed, device=device
        )
        changed = flipped(classifier, clean.to(device), samples.to(device))
        return {"boundary": samples, "flipped": changed}

    first = cache.get("boundary", made_from, make_boundary)

    def make_interpolated() -> Tensors:
        images = clean.to(device)
        with torch.no_grad():
            clean_logits = classifier(images)
            boundary_logits = classifier(first["boundary"].to(device))
        samples = [
            interpolated_samples(
                classifier,
                images,
                interpolated_logits(clean_logits, boundary_logits, coefficient),
                interpolation_settings,
            )
            for coefficient in mixing_coefficients(interpolation_settings)
        ]
        return {"interpolated": torch.stack(samples)}

    interpolation = interpolation_settings.model_dump()
    second = cache.get(
        INTERPOLATED, made_from | {"interpolation": interpolation}, make_interpolated
    )
    return StageOne(clean, first["boundary"], first["flipped"], second["interpolated"])
