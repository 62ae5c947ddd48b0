"""The inputs of a trial: the classifier, the limited data and the test images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decrop.cache import ContentCache
from decrop.classifiers.classifier import Classifier
from decrop.classifiers.load import untrained_classifier
from decrop.classifiers.storage import AnyClassifier
from decrop.config import TrialConfig
from decrop.config.classifier_source import imports_code
from decrop.data.datasets import Dataset
from decrop.data.limited import (
    LabelledImages,
    LimitedData,
    check_test_images,
    evenly_spaced,
    images_to_certify,
)
from decrop.denoisers.adapted import WrappedDenoiser, bare
from decrop.denoisers.check import check_denoiser, check_sigma
from decrop.denoisers.sources import OpenedDenoiser, open_denoiser
from decrop.errors import InputError
from decrop.files import sha256_of_tensors
from decrop.networks.identity import network_identity
from decrop.rejection.network import check_certificate
from decrop.smoothing.prepare import copied, fitting_execution
from decrop.training.hooks import NO_HOOKS, Hooks
from decrop.training.trained_classifier import load_classifier, training_images
from decrop.trial.result import Split

# On which a denoiser that is trained already is tried out.
_TRIED_IMAGES = 20


@dataclass(frozen=True)
class TrialInputs:
    """What a trial reads of the dataset and no more, for it is sent to every worker.

    Attributes:
        classifier: to train through: the one to protect, or the surrogate of a black box; with the
            weights that its training starts from, where the trial trains it.
        limited: data to train and to be scored on.
        test: images to certify in the end.
        target: the black box, which the test images are certified on; None where the classifier is
            the one to protect.
        agreement: share of held-out images on which surrogate and black box agree.
        training_images: that the trial trains the classifier on; None where it trains a denoiser.
        denoiser: that training starts from, where that is trained already; None where it is random.
    """

    classifier: Classifier
    limited: LimitedData
    test: LabelledImages
    class_names: tuple[str, ...]
    target: AnyClassifier | None = None
    agreement: float | None = None
    training_images: LabelledImages | None = None
    denoiser: OpenedDenoiser | None = None

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
        if self.denoiser is not None:
            weights = bare(self.denoiser.network).state_dict()
            hashes["initial_denoiser"] = sha256_of_tensors(weights)
        if self.target is not None:
            hashes["surrogate"] = self.classifier.content_hash()
        return {**hashes, "classifier": self.protected.content_hash()}

    def hashes_of(self, config: TrialConfig, split: Split) -> dict[str, str]:
        """Return content hashes of all that a trial reads, by which it knows that it goes on.

        Args:
            split: test images are read for `test` alone.
        """
        hashes = self.hashes()
        training = config.classifier.training
        if self.training_images is not None and training is not None and training.initial_weights:
            hashes["initial_weights"] = self.classifier.content_hash()
        if imports_code(config.classifier.source):
            hashes["classifier_code"] = network_identity(self.classifier.network)
        if self.denoiser is not None and isinstance(self.denoiser.network, WrappedDenoiser):
            hashes["denoiser_code"] = network_identity(self.denoiser.network)
        if split == "test":
            hashes["test_images"] = self.test.content_hash()
        return hashes


class PreparedTrial:
    """A trial's data and classifier, as far as they go without training or asking.

    Attributes:
        classifier: to train through, with weights where the settings name a file of them.
        denoiser: that training starts from, where that is trained already.
        trained_through: whether gradients must reach its images.
    """

    trained_through = True

    def __init__(self, config: TrialConfig, dataset: Dataset, limited: LimitedData) -> None:
        """Open the classifier and try it out as it will be used."""
        self.config = config
        self.dataset = dataset
        self.limited = limited
        check_certificate(config.certification.certificate, rejecting=False)
        check_test_images(dataset, config.certification.test_images)
        evenly_spaced(dataset.test, 1)
        self.classifier = self._opened()
        self.denoiser = trained_denoiser(config, limited.all.images)
        fitting_execution(
            config.execution,
            # A copy, for it is told a layout that it is not trained in.
            copied(self.classifier),
            dataset.train.shape,
            trained_through=self.trained_through,
        )

    @property
    def stealing_queries(self) -> int:
        """Images that a black box is asked about for a surrogate."""
        return 0

    def load(
        self,
        cache: ContentCache,
        device: torch.device,
        *,
        ledger: Path | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> TrialInputs:
        """Load what the trial works on; a classifier is trained on the training split if so asked.

        Args:
            cache: where trained classifiers, surrogates and answers of a black box are shared.
            ledger: file that counts what is asked of a black box.

        Raises:
            RunError: a black box does not answer.
        """
        classifier = load_classifier(
            self.config, self.dataset, cache, device, opened=copied(self.classifier)
        )
        return self._inputs(classifier.cpu())

    def _opened(self) -> Classifier:
        return untrained_classifier(self.config.classifier, self.dataset)

    def _inputs(self, classifier: Classifier, **others: Any) -> TrialInputs:
        return TrialInputs(
            classifier=classifier,
            denoiser=self.denoiser,
            limited=self.limited,
            test=images_to_certify(self.dataset, self.config.certification.test_images),
            class_names=self.dataset.class_names,
            **others,
        )


class PreparedClassifierTrial(PreparedTrial):
    """A trial without a denoiser, which trains the classifier itself."""

    trained_through = False

    def __init__(self, config: TrialConfig, dataset: Dataset, limited: LimitedData) -> None:
        """See `PreparedTrial`; it must be trained for long enough to be scored."""
        check_classifier_trial(config)
        super().__init__(config, dataset, limited)

    def load(
        self,
        cache: ContentCache,
        device: torch.device,
        *,
        ledger: Path | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> TrialInputs:
        """See `PreparedTrial`; the classifier stays as it is before its training."""
        training = self.config.classifier.training
        assert training is not None  # it was checked
        return self._inputs(
            copied(self.classifier),
            training_images=training_images(self.dataset, training, self.config.limited),
        )


def trained_denoiser(config: TrialConfig, images: Tensor) -> OpenedDenoiser | None:
    """Open the denoiser of a trial if it is trained already, and try it out on the first images.

    Args:
        images: clean, [B, C, H, W], uint8 or in [0,1]; limited ones, where something is trained.

    Returns:
        the denoiser in eval mode; None where its weights are random.
    """
    if not config.denoiser.starts_trained:
        return None
    images = images[:_TRIED_IMAGES]
    check_sigma(config.denoiser, config.sigma)
    opened = open_denoiser(config.denoiser, image_channels=images.shape[1], sigma=config.sigma)
    check_denoiser(opened.network.eval(), config.denoiser, images, config.sigma)
    return opened


def check_classifier_trial(config: TrialConfig) -> None:
    """Check that a trial without a denoiser trains a classifier, long enough to be scored."""
    training, evaluations = config.classifier.training, config.training.evaluations
    if training is None:
        raise InputError(
            "denoiser.source = none: such a trial trains its classifier; give "
            "classifier.training, or certify a classifier that is trained with `decrop certify`."
        )
    if evaluations > training.epochs:
        raise InputError(
            f"training.evaluations = {evaluations}: must not exceed classifier.training.epochs "
            f"({training.epochs}) in a trial without a denoiser, which is scored after epochs of "
            "its classifier's training."
        )
