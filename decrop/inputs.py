"""What a trial works on: the classifier, the limited data and the test images."""

from dataclasses import dataclass

import torch

from decrop.cache import ContentCache
from decrop.classifiers.classifier import Classifier
from decrop.classifiers.load import untrained_classifier
from decrop.config import TrialConfig
from decrop.data.datasets import load_dataset
from decrop.data.limited import LabelledImages, LimitedData, evenly_spaced, limited_data
from decrop.errors import InputError
from decrop.smoothing.rejecting import check_certificate
from decrop.training.trained_classifier import load_classifier, training_images


@dataclass(frozen=True)
class TrialInputs:
    """What a trial reads of the dataset and no more, for it is sent to every worker.

    Attributes:
        classifier: to protect; with the weights that its training starts from, where the trial
            trains it.
        limited: the limited data.
        test: images to certify.
        class_names: in the order of the logits.
        training_images: that the trial trains the classifier on; None where it trains a denoiser.
    """

    classifier: Classifier
    limited: LimitedData
    test: LabelledImages
    class_names: tuple[str, ...]
    training_images: LabelledImages | None = None


def load_inputs(config: TrialConfig, cache: ContentCache, device: torch.device) -> TrialInputs:
    """Open the dataset, load (or train) the classifier, draw the limited data.

    A classifier that the trial itself trains is left as it is before.

    Raises:
        InputError: paths, columns, weights, fractions or a certificate that cannot be used.
    """
    check_certificate(config.certification.certificate, rejecting=False)
    check_classifier_trial(config)
    dataset = load_dataset(config.dataset)
    limited = limited_data(dataset, config.limited)
    training = config.classifier.training
    if config.trains_classifier and training is not None:
        return TrialInputs(
            classifier=untrained_classifier(config.classifier, dataset),
            limited=limited,
            test=evenly_spaced(dataset.test, config.certification.test_images),
            class_names=dataset.class_names,
            training_images=training_images(dataset, training, config.limited),
        )
    return TrialInputs(
        classifier=load_classifier(config, dataset, cache, device).cpu(),
        limited=limited,
        test=evenly_spaced(dataset.test, config.certification.test_images),
        class_names=dataset.class_names,
    )


def check_inputs(config: TrialConfig) -> None:
    """Raise what `load_inputs` would, without training a classifier.

    Raises:
        InputError: paths, columns, weights, fractions or a certificate that cannot be used.
    """
    check_certificate(config.certification.certificate, rejecting=False)
    check_classifier_trial(config)
    dataset = load_dataset(config.dataset)
    limited_data(dataset, config.limited)
    evenly_spaced(dataset.test, 1)
    untrained_classifier(config.classifier, dataset)


def check_classifier_trial(config: TrialConfig) -> None:
    """Check that a trial without a denoiser trains a classifier, long enough to be scored.

    Raises:
        InputError: it does not.
    """
    if not config.trains_classifier:
        return
    training, evaluations = config.classifier.training, config.training.evaluations
    if training is None:
        raise InputError(
            "denoiser.architecture = none: such a trial trains its classifier; give "
            "classifier.training, or certify a classifier that is trained with `decrop certify`."
        )
    if evaluations > training.epochs:
        raise InputError(
            f"training.evaluations = {evaluations}: must not exceed classifier.training.epochs "
            f"({training.epochs}) in a trial without a denoiser, which is scored after epochs of "
            "its classifier's training."
        )
