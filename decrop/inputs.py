"""What a trial works on: the classifier, the limited data and the test images."""

from dataclasses import dataclass

import torch

from decrop.cache import ContentCache
from decrop.classifiers.classifier import Classifier
from decrop.classifiers.load import untrained_classifier
from decrop.config import TrialConfig
from decrop.data.datasets import load_dataset
from decrop.data.limited import LabelledImages, LimitedData, evenly_spaced, limited_data
from decrop.smoothing.rejecting import check_certificate
from decrop.training.trained_classifier import load_classifier


@dataclass(frozen=True)
class TrialInputs:
    """Small enough to send to every worker: no more of the dataset than a trial reads."""

    classifier: Classifier
    limited: LimitedData
    test: LabelledImages
    class_names: tuple[str, ...]


def load_inputs(config: TrialConfig, cache: ContentCache, device: torch.device) -> TrialInputs:
    """Open the dataset, load (or train) the classifier, draw the limited data.

    Raises:
        InputError: paths, columns, weights, fractions or a certificate that cannot be used.
    """
    check_certificate(config.certification.certificate, rejecting=False)
    dataset = load_dataset(config.dataset)
    limited = limited_data(dataset, config.limited)
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
    dataset = load_dataset(config.dataset)
    limited_data(dataset, config.limited)
    evenly_spaced(dataset.test, 1)
    untrained_classifier(config.classifier, dataset)
