"""Boundary samples (DE-CROP, eq. 5): adversarial examples of the limited data."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from decrop.classifiers.classifier import Classifier
from decrop.config import BoundarySettings
from decrop.config.synthesis import ATTACKS
from decrop.errors import InputError
from decrop.seeds import seeded_globals

# The library is imported by what attacks: a sweep's driver and its helpers do without.
if TYPE_CHECKING:
    from art.attacks import EvasionAttack
    from art.estimators.classification import PyTorchClassifier

_BATCH_SIZE = 256
# Smaller, for DeepFool holds an image's gradient of each of ten classes.
_DEEPFOOL_BATCH_SIZE = 32
# As in the library's AutoAttack: further, and fewer of its samples would stay within epsilon.
_OVERSHOOT_WITHIN_EPSILON = 1e-3
# The share of the pixels that Square changes at first, as in the papers of Square and AutoAttack.
_SQUARE_FIRST_SHARE = 0.8


@dataclass(frozen=True)
class Method:
    """An attack of the library.

    Attributes:
        build: makes it of the attacked classifier and the settings.
        reads: names of the settings that its samples depend on.
        given_labels: whether it ascends the loss of the true classes; else it leaves the predicted
            ones, for given true labels it would leave every image alone that is classified wrongly.
    """

    build: Callable[["PyTorchClassifier", BoundarySettings], "EvasionAttack"]
    reads: frozenset[str]
    given_labels: bool = False


def boundary_samples(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    settings: BoundarySettings,
    *,
    seed: int,
    device: torch.device,
) -> Tensor:
    """Perturb images until the classifier's prediction changes (DE-CROP eq. 5).

    Where the attack fails a sample is returned all the same, see `flipped`: the perturbed image by
    pgd and deepfool, the image itself by auto_attack.

    Args:
        classifier: on `device`.
        images: float32 [n, C, H, W] in [0,1].
        labels: int64 [n], the true classes whose loss pgd ascends; the other attacks leave the
            predicted class, so that an image that is classified wrongly is moved too.
        settings: attack and its settings.
        seed: of what the attack samples.

    Returns:
        float32 [n, C, H, W] in [0,1]. By pgd and auto_attack it is at most `settings.epsilon` from
        `images` in every pixel, by pgd with norm l2 in the L2 norm. By deepfool, an L2 attack that
        seeks the nearest boundary, it may be anywhere in [0,1].
    """
    from decrop import _torchvision  # noqa: F401  # which the attacks' library imports

    from art.estimators.classification import PyTorchClassifier  # isort: skip

    method = ATTACKS[settings.attack].resolved()
    estimator = PyTorchClassifier(
        model=classifier,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=classifier.class_count,
        clip_values=(0.0, 1.0),
        device_type="gpu" if device.type == "cuda" else "cpu",
    )
    clean = images.cpu()
    given = [clean.numpy(), labels.cpu().numpy()] if method.given_labels else [clean.numpy()]
    with seeded_globals(seed, "boundary samples"):
        samples = torch.from_numpy(method.build(estimator, settings).generate(*given))
    if "epsilon" in method.reads:
        # The library projects exactly up to rounding; DE-CROP eq. 5's bound holds to the last bit.
        moves, most = samples - clean, settings.epsilon
        in_l2 = "norm" in method.reads and settings.norm == "l2"
        samples = clean + (_within_l2(moves, most) if in_l2 else moves.clamp(-most, most))
    return samples.clamp(0, 1)


def _within_l2(perturbations: Tensor, epsilon: float) -> Tensor:
    norms = perturbations.flatten(1).norm(dim=1)[:, None, None, None]
    return torch.where(norms > epsilon, perturbations * (epsilon / norms), perturbations)


def flipped(classifier: Classifier, images: Tensor, boundary: Tensor) -> Tensor:
    """Tell for which images the prediction on the boundary sample is another, bool [n]."""
    with torch.inference_mode():
        changed: Tensor = classifier(images).argmax(1) != classifier(boundary).argmax(1)
    return changed


def determining_settings(settings: BoundarySettings) -> dict[str, Any]:
    """Return, as JSON, the settings that the samples depend on: the attack and what it reads."""
    method: Method = ATTACKS[settings.attack].resolved()
    return settings.model_dump(mode="json", include={"attack", *method.reads})


def _pgd(estimator: "PyTorchClassifier", settings: BoundarySettings) -> "EvasionAttack":
    from art.attacks.evasion import ProjectedGradientDescentPyTorch

    return ProjectedGradientDescentPyTorch(
        estimator,
        norm=2 if settings.norm == "l2" else np.inf,
        eps=settings.epsilon,
        eps_step=settings.step_size,
        max_iter=settings.steps,
        num_random_init=settings.restarts,
        batch_size=_BATCH_SIZE,
        verbose=False,
    )


def _auto_attack(estimator: "PyTorchClassifier", settings: BoundarySettings) -> "EvasionAttack":
    from art.attacks.evasion import AutoAttack, SquareAttack

    _require_what_auto_attack_needs(estimator, settings)
    parts = [
        _auto_pgd(estimator, "cross_entropy", settings),
        _auto_pgd(estimator, "difference_logits_ratio", settings),
        _deepfool(estimator, settings, _OVERSHOOT_WITHIN_EPSILON),
    ]
    if settings.square_queries:
        parts.append(
            SquareAttack(
                estimator,
                norm=np.inf,
                max_iter=settings.square_queries,
                eps=settings.epsilon,
                p_init=_SQUARE_FIRST_SHARE,
                nb_restarts=1,
                batch_size=_BATCH_SIZE,
                verbose=False,
            )
        )
    return AutoAttack(
        estimator,
        norm=np.inf,
        eps=settings.epsilon,
        eps_step=settings.step_size,
        attacks=parts,
        batch_size=_BATCH_SIZE,
    )


def _auto_pgd(
    estimator: "PyTorchClassifier", loss: str, settings: BoundarySettings
) -> "EvasionAttack":
    from art.attacks.evasion import AutoProjectedGradientDescent

    return AutoProjectedGradientDescent(
        estimator,
        norm=np.inf,
        eps=settings.epsilon,
        eps_step=settings.step_size,
        max_iter=settings.steps,
        nb_random_init=1,
        batch_size=_BATCH_SIZE,
        loss_type=loss,
        verbose=False,
    )


def _deepfool(
    estimator: "PyTorchClassifier", settings: BoundarySettings, overshoot: float | None = None
) -> "EvasionAttack":
    from art.attacks.evasion import DeepFool

    return DeepFool(
        estimator,
        max_iter=settings.steps,
        epsilon=settings.overshoot if overshoot is None else overshoot,
        batch_size=_DEEPFOOL_BATCH_SIZE,
        verbose=False,
    )


def _require_what_auto_attack_needs(
    estimator: "PyTorchClassifier", settings: BoundarySettings
) -> None:
    if estimator.nb_classes < 3:
        raise InputError(
            f"boundary.attack auto_attack needs at least 3 classes, got {estimator.nb_classes}; "
            "use pgd or deepfool."
        )
    height, width = estimator.input_shape[1:]
    first_square = round(math.sqrt(_SQUARE_FIRST_SHARE * height * width))
    if settings.square_queries and first_square >= min(height, width):
        raise InputError(
            f"boundary.square_queries: Square needs nearly square images of at least 5 pixels a "
            f"side, got {height}x{width}; give 0 to leave it out."
        )


_BOUNDED = frozenset({"epsilon", "step_size", "steps"})
PGD = Method(_pgd, _BOUNDED | {"norm", "restarts"}, given_labels=True)
AUTO_ATTACK = Method(_auto_attack, _BOUNDED | {"square_queries"})
DEEPFOOL = Method(_deepfool, frozenset({"steps", "overshoot"}))
