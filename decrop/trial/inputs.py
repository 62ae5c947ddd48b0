"""What a trial works on: the classifier, the limited data and the test images."""

from dataclasses import dataclass
from pathlib import Path

import torch

from decrop.black_box import EndpointClassifier, endpoint_classifier
from decrop.cache import ContentCache
from decrop.classifiers.classifier import Classifier
from decrop.classifiers.load import untrained_classifier
from decrop.classifiers.storage import AnyClassifier
from decrop.config import TrialConfig
from decrop.config.classifier_source import imports_code
from decrop.data.datasets import Dataset, load_dataset
from decrop.data.limited import LabelledImages, LimitedData, evenly_spaced, limited_data
from decrop.errors import InputError
from decrop.networks.identity import network_identity
from decrop.rejection.network import check_certificate
from decrop.smoothing.prepare import fitting_execution
from decrop.training.hooks import NO_HOOKS, Hooks
from decrop.training.surrogate import load_surrogate, surrogate_to_train
from decrop.training.trained_classifier import load_classifier, training_images
from decrop.trial.result import Split


@dataclass(frozen=True)
class TrialInputs:
    """What a trial reads of the dataset and no more, for it is sent to every worker.

    Attributes:
        classifier: to train through: the one to protect, or the surrogate of a black box; with the
            weights that its training starts from, where the trial trains it.
        limited: data to train and to be scored on.
        test: images to certify in the end.
        class_names: in the order of the logits.
        target: the black box, which the test images are certified on; None where the classifier is
            the one to protect.
        agreement: share of held-out images on which surrogate and black box agree.
        training_images: that the trial trains the classifier on; None where it trains a denoiser.
    """

    classifier: Classifier
    limited: LimitedData
    test: LabelledImages
    class_names: tuple[str, ...]
    target: EndpointClassifier | None = None
    agreement: float | None = None
    training_images: LabelledImages | None = None

    @property
    def protected(self) -> AnyClassifier:
        """The classifier that test images are certified on."""
        return self.classifier if self.target is None else self.target

    def hashes(self) -> dict[str, str]:
        """Return content hashes of the limited data and of what is there before the trial.

        That is the protected classifier and its surrogate, or the images to train a classifier on.
        """
        hashes = {"limited_data": self.limited.all.content_hash()}
        if self.training_images is not None:
            return {**hashes, "training_images": self.training_images.content_hash()}
        if self.target is not None:
            hashes["surrogate"] = self.classifier.content_hash()
        return {**hashes, "classifier": self.protected.content_hash()}

    def hashes_of(self, config: TrialConfig, split: Split) -> dict[str, str]:
        """Return content hashes of all that a trial reads, by which it knows that it goes on.

        Args:
            config: the trial's settings.
            split: test images are read for `test` alone.
        """
        hashes = self.hashes()
        training = config.classifier.training
        if self.training_images is not None and training is not None and training.initial_weights:
            hashes["initial_weights"] = self.classifier.content_hash()
        if imports_code(config.classifier.source):
            hashes["classifier_code"] = network_identity(self.classifier.network)
        if split == "test":
            hashes["test_images"] = self.test.content_hash()
        return hashes


def load_inputs(
    config: TrialConfig,
    cache: ContentCache,
    device: torch.device,
    *,
    ledger: Path | None = None,
    hooks: Hooks = NO_HOOKS,
) -> TrialInputs:
    """Open the dataset, load (or train, or steal) the classifier, draw the limited data.

    A classifier that the trial itself trains is left as it is before.

    Args:
        config: the trial's settings.
        cache: where trained classifiers, surrogates and answers of a black box are shared.
        device: where to train.
        ledger: file that counts what is asked of a black box.
        hooks: what is told of the questions to a black box, and of its surrogate's training.

    Raises:
        InputError: paths, columns, weights, fractions or a certificate that cannot be used.
        RunError: a black box does not answer.
    """
    check_certificate(config.certification.certificate, rejecting=False)
    check_classifier_trial(config)
    dataset = load_dataset(config.dataset)
    limited = limited_data(dataset, config.limited)
    target = agreement = images = None
    if config.classifier.asked is not None:
        given = surrogate_to_train(config, dataset, limited)
        target = endpoint_classifier(config.classifier, dataset, ledger)
        surrogate = load_surrogate(
            given,
            target,
            cache,
            device,
            on_asked=hooks.stage("asking, images"),
            on_step=hooks.stage("training the surrogate, steps"),
        )
        classifier, agreement = surrogate.classifier, surrogate.agreement
    elif config.trains_classifier and config.classifier.training is not None:
        classifier = untrained_classifier(config.classifier, dataset)
        images = training_images(dataset, config.classifier.training, config.limited)
    else:
        classifier = load_classifier(config, dataset, cache, device).cpu()
    return TrialInputs(
        classifier=classifier,
        limited=limited,
        test=evenly_spaced(dataset.test, config.certification.test_images),
        class_names=dataset.class_names,
        target=target,
        agreement=agreement,
        training_images=images,
    )


def check_inputs(config: TrialConfig) -> None:
    """Raise what `load_inputs` would, without training a classifier or asking a black box.

    Raises:
        InputError: paths, columns, weights, fractions or a certificate that cannot be used.
    """
    check_certificate(config.certification.certificate, rejecting=False)
    check_classifier_trial(config)
    dataset = load_dataset(config.dataset)
    limited = limited_data(dataset, config.limited)
    evenly_spaced(dataset.test, 1)
    fitting_execution(
        config.execution,
        trained_through(config, dataset, limited),
        dataset.train.shape,
        trained_through=not config.trains_classifier,
    )


def trained_through(config: TrialConfig, dataset: Dataset, limited: LimitedData) -> Classifier:
    """Return what a trial trains through, as far as it goes without training or asking.

    Raises:
        InputError: it cannot be used.
    """
    if config.classifier.asked is not None:
        return surrogate_to_train(config, dataset, limited).classifier
    return untrained_classifier(config.classifier, dataset)


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
