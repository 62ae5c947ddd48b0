"""Whether a network of somebody else's does what a classifier must, tried on noise."""

import torch

from decrop.classifiers.classifier import Classifier
from decrop.errors import InputError
from decrop.seeds import torch_generator

# Relative: batched kernels may give other last bits to other rows.
_TOLERANCE = 1e-3


@torch.no_grad()
def check_classifier(classifier: Classifier, shape: tuple[int, ...], *, source: str) -> None:
    """Run a classifier on two batches of noise that begin with the same image.

    Args:
        classifier: on the CPU.
        shape: of an image, [C, H, W].
        source: where it comes from, for the message.

    Raises:
        InputError: it fails, does not give logits [B, K], gives an image other logits beside other
            images or a second time, or its features cannot be read.
    """
    images = torch.rand((3, *shape), generator=torch_generator(0, "trial images"))
    first = _logits(classifier, images[[0, 1]], source)
    second = _logits(classifier, images[[0, 2]], source)
    scale = first[0].abs().max().clamp(min=1e-6)
    if not ((first[0] - second[0]).abs() <= _TOLERANCE * scale).all():
        raise InputError(
            f"classifier.source: {source} gives an image other logits when another one stands "
            "beside it, or when it is asked again (BatchNorm by the batch, or dropout?); only a "
            "network that answers for each image alone, always the same, can be certified."
        )
    classifier.feature_layer_and_count(images[:1])


def _logits(classifier: Classifier, images: torch.Tensor, source: str) -> torch.Tensor:
    shape = list(images.shape)
    try:
        logits = classifier(images)
    except InputError:
        raise
    except Exception as error:  # code of others may raise anything
        raise InputError(
            f"classifier.source: {source} fails on images {shape} with {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}; is classifier.input_size the size it takes?"
        ) from error
    expected = [len(images), classifier.class_count]
    if not isinstance(logits, torch.Tensor) or list(logits.shape) != expected:
        found = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(
            f"classifier.source: {source} gives {found} for images {shape}; it must give logits "
            f"{expected}, one row an image and one column a class of the data."
        )
    if not logits.isfinite().all():
        raise InputError(f"classifier.source: {source} gives logits that are not finite numbers.")
    return logits
