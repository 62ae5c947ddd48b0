"""Boundary samples (DE-CROP, eq. 5): adversarial examples of the limited data."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from decrop import _torchvision  # noqa: F401  # the attacks' library imports torchvision
from decrop.classifiers.classifier import Classifier
from decrop.config import Attack, BoundarySettings
from decrop.seeds import seeded_globals

from art.attacks.evasion import ProjectedGradientDescentPyTorch  # isort: skip
from art.estimators.classification import PyTorchClassifier  # isort: skip

_BATCH_SIZE = 256


def boundary_samples(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    settings: BoundarySettings,
    *,
    seed: int,
    device: torch.device,
) -> Tensor:
    """Perturb images until the classifier's prediction changes, within an L-infinity ball.

    Where the attack fails the perturbed image is returned all the same; see `flipped`.

    Args:
        classifier: on `device`.
        images: float32 [n, C, H, W] in [0,1].
        labels: int64 [n], the true classes whose loss the attack ascends.
        settings: attack and its settings.
        seed: of the random start.
        device: where to run.

    Returns:
        float32 [n, C, H, W] in [0,1], at most `settings.epsilon` from `images` in every pixel.
    """
    estimator = PyTorchClassifier(
        model=classifier,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=classifier.class_count,
        clip_values=(0.0, 1.0),
        device_type="gpu" if device.type == "cuda" else "cpu",
    )
    with seeded_globals(seed, "boundary samples"):
        adversarial = _ATTACKS[settings.attack](
            estimator, images.cpu().numpy(), labels.cpu().numpy(), settings
        )
    delta = torch.from_numpy(adversarial) - images.cpu()
    # The library's projection is exact up to rounding; the bound of eq. 5 is kept to the last bit.
    bounded: Tensor = images.cpu() + delta.clamp(-settings.epsilon, settings.epsilon)
    return bounded.clamp(0, 1)


def flipped(classifier: Classifier, images: Tensor, boundary: Tensor) -> Tensor:
    """Tell for which images the prediction on the boundary sample is another, bool [n]."""
    with torch.inference_mode():
        changed: Tensor = classifier(images).argmax(1) != classifier(boundary).argmax(1)
    return changed


def _pgd(
    estimator: PyTorchClassifier,
    images: np.ndarray,
    labels: np.ndarray,
    settings: BoundarySettings,
) -> np.ndarray:
    attack = ProjectedGradientDescentPyTorch(
        estimator,
        norm=np.inf,
        eps=settings.epsilon,
        eps_step=settings.step_size,
        max_iter=settings.steps,
        num_random_init=1,
        batch_size=_BATCH_SIZE,
        verbose=False,
    )
    adversarial: np.ndarray = attack.generate(images, labels)
    return adversarial


_ATTACKS: dict[
    Attack,
    Callable[[PyTorchClassifier, np.ndarray, np.ndarray, BoundarySettings], np.ndarray],
] = {"pgd": _pgd}
