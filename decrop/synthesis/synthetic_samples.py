"""Stage 1: all samples of the limited data, from the cache or made now."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from decrop.cache import ContentCache, Tensors
from decrop.classifiers.classifier import Classifier
from decrop.config import TrialConfig
from decrop.data.limited import LimitedData
from decrop.files import sha256_of_tensors
from decrop.networks.identity import network_identity
from decrop.synthesis.boundary import boundary_samples, determining_settings, flipped
from decrop.synthesis.interpolation import (
    floored_to_8_bits,
    interpolated_logits,
    interpolated_samples,
    mixing_coefficients,
    relative_logit_errors,
    same_class_partners,
)
from decrop.wording import counted

# Changed when the computation changes, so that an old cache is not taken for a new one.
_VERSION = 1
INTERPOLATED = "interpolated"
# Images at once, whose activations fill the memory.
_AT_ONCE = 256


@dataclass(frozen=True)
class SyntheticSamples:
    """The samples of n limited images, float32 in [0,1].

    Attributes:
        clean: [n, C, H, W].
        boundary: [n, C, H, W].
        flipped: bool [n], whether the boundary sample changed the prediction.
        interpolated: [count, n, C, H, W].
        logit_errors: [count, n], how far the logits of the interpolated samples are from those of
            DE-CROP eq. 6, as shares of their norm (see `relative_logit_errors`).
    """

    clean: Tensor
    boundary: Tensor
    flipped: Tensor
    interpolated: Tensor
    logit_errors: Tensor

    def subset(self, mask: Tensor) -> "SyntheticSamples":
        """Return the samples of the images where `mask` (bool [n]) is true."""
        return SyntheticSamples(
            self.clean[mask],
            self.boundary[mask],
            self.flipped[mask],
            self.interpolated[:, mask],
            self.logit_errors[:, mask],
        )

    @property
    def flip_rate(self) -> float:
        """Share of images whose boundary sample changed the prediction."""
        return self.flipped.float().mean().item()


def synthetic_samples(
    config: TrialConfig,
    classifier: Classifier,
    limited: LimitedData,
    *,
    cache: ContentCache,
    device: torch.device,
    say: Callable[[str], None] = lambda sentence: None,
) -> SyntheticSamples:
    """Make boundary and interpolated samples of the limited data, or take them from the cache.

    Boundary samples are cached apart from interpolated ones, so trials that differ in the mixing
    coefficient alone share them; so do trials that differ in settings that the attack does not
    read.

    Args:
        say: called with a sentence before what takes its time.
    """
    classifier, seed = classifier.to(device), config.seed
    clean = limited.all.images.float() / 255
    labels = limited.all.labels
    made_from = {
        "version": _VERSION,
        "classifier": network_identity(classifier),
        "data": limited.all.content_hash(),
        "seed": seed,
    }
    boundary_from = made_from | {"boundary": determining_settings(config.boundary)}
    if config.interpolation.partner == "same_class":
        partners = same_class_partners(labels, limited.held_out_mask, seed=seed)
        partners_from = made_from | {"partners": sha256_of_tensors({"partners": partners})}
    else:
        partners = None
        partners_from = boundary_from

    def crossing(boundary: Tensor) -> Tensor:
        return by_parts(partial(flipped, classifier), clean, boundary, device=device)

    def logits_of(images: Tensor) -> Tensor:
        with torch.no_grad():
            return by_parts(classifier, images, device=device)

    def make_boundary() -> Tensors:
        say(f"making boundary samples of {counted(len(clean), 'image')} ({config.boundary.attack})")
        samples = boundary_samples(
            classifier, clean, labels, config.boundary, seed=seed, device=device
        )
        return {"boundary": samples, "flipped": crossing(samples)}

    first = cache.get("boundary", boundary_from, make_boundary)

    def moved(images: Tensor, target: Tensor) -> Tensor:
        return interpolated_samples(classifier, images, target, config.interpolation)

    def make_interpolated() -> Tensors:
        say(f"making interpolated samples of {counted(len(clean), 'image')}")
        clean_logits = logits_of(clean)
        partner_logits = (
            logits_of(first["boundary"]) if partners is None else clean_logits[partners]
        )
        samples, errors = [], []
        for coefficient in mixing_coefficients(config.interpolation):
            target = interpolated_logits(clean_logits, partner_logits, coefficient)
            samples.append(by_parts(moved, clean, target, device=device))
            errors.append(relative_logit_errors(logits_of(samples[-1]), target))
        return {"interpolated": torch.stack(samples), "logit_errors": torch.stack(errors)}

    interpolated_from = partners_from | {"interpolation": config.interpolation.model_dump()}
    second = cache.get(INTERPOLATED, interpolated_from, make_interpolated)
    boundary, crosses = first["boundary"], first["flipped"]
    if config.boundary.pixels == "uint8":
        boundary = floored_to_8_bits(boundary)
        crosses = crossing(boundary)
    return SyntheticSamples(
        clean, boundary, crosses, second["interpolated"], second["logit_errors"]
    )


def by_parts(compute: Callable[..., Tensor], *given: Tensor, device: torch.device) -> Tensor:
    """Compute on a device, for so many images at a time, what each image has for itself.

    So the memory that it takes beyond what is given and returned does not grow with the images.
    Last bits may depend on the size of a part, as those of every batch do.

    Args:
        compute: of parts of what is given, on the device.
        given: [n, …] each, on any device.

    Returns:
        [n, …], on the CPU.
    """
    parts = zip(*(tensor.split(_AT_ONCE) for tensor in given), strict=True)
    return torch.cat([compute(*(t.to(device) for t in part)).cpu() for part in parts])
