"""The classifier to protect, trained here where no weights are given."""

from dataclasses import dataclass
from typing import Any

import torch

from decrop.cache import ContentCache, Tensors
from decrop.classifiers.classifier import Classifier
from decrop.classifiers.load import untrained_classifier
from decrop.config import LimitedDataSettings, TrialConfig
from decrop.config.classifier_training import ClassifierTrainingSettings
from decrop.data.datasets import Dataset
from decrop.data.limited import LabelledImages, limited_data, take
from decrop.errors import InputError
from decrop.smoothing.execution import resolve_precision
from decrop.training.classifier import ClassifierTrainer, train_to_end

# Changed when the computation changes, so that an old cache is not taken for a new one.
_VERSION = 2


@dataclass(frozen=True)
class ClassifierToTrain:
    """A classifier and what it is to be trained on.

    Attributes:
        classifier: untrained, or with the weights to start from.
        settings: of its training.
        images: of the training split.
        sigma: standard deviation of the noise, in [0,1] pixels; not used by the plain objective.
    """

    classifier: Classifier
    settings: ClassifierTrainingSettings
    images: LabelledImages
    sigma: float

    def trainer(self, device: torch.device) -> ClassifierTrainer:
        """Begin its training."""
        return ClassifierTrainer(
            self.classifier,
            self.images.images,
            self.images.labels,
            self.settings,
            sigma=self.sigma,
            device=device,
        )

    def determined_by(self, device: torch.device) -> dict[str, Any]:
        """Return everything that the trained weights depend on, as JSON; paths by content."""
        elsewhere = {"sigma", "initial_weights", "trained_on", "precision"}
        initial = None
        if self.settings.initial_weights is not None:
            initial = self.classifier.content_hash()
        return {
            "version": _VERSION,
            "architecture": self.classifier.architecture,
            "training": self.settings.model_dump(exclude=elsewhere),
            "precision": resolve_precision(self.settings.precision, device),
            "sigma": self.sigma if self.settings.noisy else None,
            "initial": initial,
            "mean": self.classifier.mean.flatten().tolist(),
            "std": self.classifier.std.flatten().tolist(),
            "use": self.classifier.description(),
            "data": self.images.content_hash(),
        }


def classifier_to_train(
    config: TrialConfig, dataset: Dataset, *, opened: Classifier | None = None
) -> ClassifierToTrain:
    """Gather what the classifier of a trial's settings is trained from.

    Args:
        config: the trial's settings.
        dataset: of whose training split it is trained on images.
        opened: the untrained classifier, where it is there already.

    Raises:
        InputError: no training is asked for, or initial weights or statistics do not fit.
    """
    settings = config.classifier.training
    if settings is None:
        raise InputError(
            "classifier.training: nothing says how to train the classifier; give it, as in "
            "--set classifier.training.objective=gaussian, and a classifier.source."
        )
    return ClassifierToTrain(
        classifier=opened or untrained_classifier(config.classifier, dataset),
        settings=settings,
        images=training_images(dataset, settings, config.limited),
        sigma=config.sigma if settings.sigma is None else settings.sigma,
    )


def load_classifier(
    config: TrialConfig,
    dataset: Dataset,
    cache: ContentCache,
    device: torch.device,
    *,
    opened: Classifier | None = None,
) -> Classifier:
    """Load the classifier's weights, or train it on the training split if so asked.

    A trained classifier is kept in `cache` under its data, architecture and training settings.

    Args:
        config: the trial's settings.
        dataset: that it classifies.
        cache: where trained classifiers are shared.
        device: where to train.
        opened: the untrained classifier, where it is there already.

    Raises:
        InputError: neither weights nor training is given, or weights or statistics do not fit.
    """
    if config.classifier.training is None:
        return opened or untrained_classifier(config.classifier, dataset)
    given = classifier_to_train(config, dataset, opened=opened)

    def weights() -> Tensors:
        trainer = given.trainer(device)
        train_to_end(trainer)
        return trainer.weights()

    trained = cache.get("classifier", given.determined_by(device), weights)
    given.classifier.network.load_state_dict(trained)
    return given.classifier


def training_images(
    dataset: Dataset, settings: ClassifierTrainingSettings, limited: LimitedDataSettings
) -> LabelledImages:
    """Take the images that a classifier is trained on, never the held-out ones unless on all.

    Raises:
        InputError: the fractions of the limited data leave a class without an image.
    """
    if settings.trained_on == "all":
        return take(dataset.train, torch.arange(len(dataset.train.labels)))
    drawn = limited_data(dataset, limited)
    if settings.trained_on == "limited":
        return drawn.all.subset(~drawn.held_out_mask)
    chosen = torch.ones(len(dataset.train.labels), dtype=torch.bool)
    chosen[drawn.all.indices[drawn.held_out_mask]] = False
    return take(dataset.train, chosen.nonzero().flatten())
