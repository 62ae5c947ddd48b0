"""Classifiers trained from settings: in the cache, or in a folder with a report."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from decrop.cache import ContentCache, Tensors
from decrop.classifiers.classifier import Classifier
from decrop.classifiers.load import untrained_classifier
from decrop.classifiers.predictions import accuracy, predicted_classes
from decrop.config import LimitedDataSettings, TrialConfig
from decrop.config.classifier_training import ClassifierTrainingSettings
from decrop.data.datasets import Dataset, load_dataset
from decrop.data.limited import LabelledImages, limited_data, take
from decrop.errors import InputError
from decrop.files import sha256_of_json
from decrop.seeds import torch_generator
from decrop.smoothing.execution import resolve_device, resolve_precision
from decrop.training.classifier import ClassifierTrainer
from decrop.training.folder import ClassifierFolder
from decrop.training.hooks import NO_HOOKS, Hooks
from decrop.training.loop import train

# Changed when the computation changes, so that an old cache is not taken for a new one.
_VERSION = 2
# Noise samples of an image in its noisy accuracy.
_NOISE_SAMPLES = 4


@dataclass(frozen=True)
class ClassifierToTrain:
    """A classifier and what it is to be trained on.

    Attributes:
        classifier: untrained, or with the weights to start from.
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
        opened: the untrained classifier, where it is there already.
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
        opened: the untrained classifier, where it is there already.
    """
    if config.classifier.training is None:
        return opened or untrained_classifier(config.classifier, dataset)
    given = classifier_to_train(config, dataset, opened=opened)

    def weights() -> Tensors:
        trainer = given.trainer(device)
        train(trainer)
        return trainer.weights()

    trained = cache.get("classifier", given.determined_by(device), weights)
    given.classifier.network.load_state_dict(trained)
    return given.classifier


def training_images(
    dataset: Dataset, settings: ClassifierTrainingSettings, limited: LimitedDataSettings
) -> LabelledImages:
    """Take the images that a classifier is trained on, never the held-out ones unless on all."""
    if settings.trained_on == "all":
        return take(dataset.train, torch.arange(len(dataset.train.labels)))
    found = limited_data(dataset, limited)
    if settings.trained_on == "limited":
        return found.without_held_out
    chosen = torch.ones(len(dataset.train.labels), dtype=torch.bool)
    chosen[found.held_out.indices] = False
    return take(dataset.train, chosen.nonzero().flatten())


def train_classifier(
    config: TrialConfig,
    folder: ClassifierFolder,
    *,
    hooks: Hooks = NO_HOOKS,
) -> dict[str, Any]:
    """Train the classifier of a trial's settings and score it on held-out images.

    Training goes on from the folder's checkpoint; a finished one is not done again.

    Args:
        config: settings with `classifier.training`.

    Returns:
        the report: records of the epochs; sigma; clean and noisy accuracy of the classifier itself
        (no votes are taken) on the held-out images of the limited data, None where it was trained
        on them; hashes.

    Raises:
        TrainingDivergedError: the loss became NaN or infinite.
    """
    folder.check_settings(config)
    device = resolve_device(config.execution.device)
    dataset = load_dataset(config.dataset)
    given = classifier_to_train(config, dataset)
    hashes = {"training_images": given.images.content_hash()}
    if given.settings.initial_weights is not None:
        hashes["initial_weights"] = given.classifier.content_hash()
    if given.settings.trained_on != "all":
        # Some of them score it.
        hashes["limited_data"] = limited_data(dataset, config.limited).all.content_hash()
    folder.keep_inputs(hashes)
    folder.write_settings(config)
    origin = sha256_of_json(given.determined_by(device))
    report = folder.read_report()
    if report is not None:
        folder.check_origin(report["origin"], origin)
        return report
    trainer = given.trainer(device)
    train_in_folder(trainer, given.classifier, folder, origin, hooks)
    report = {
        "objective": given.settings.objective,
        "sigma": given.sigma,
        "training_images": len(given.images),
        "held_out": _held_out_scores(given, config, dataset, device),
        **outcome_of(trainer, given.classifier, device),
        "origin": origin,
    }
    folder.finish(report)
    return report


def _held_out_scores(
    given: ClassifierToTrain, config: TrialConfig, dataset: Dataset, device: torch.device
) -> dict[str, Any] | None:
    """Return accuracies on the held-out images, None where the classifier was trained on them."""
    if given.settings.trained_on == "all":
        return None
    images = limited_data(dataset, config.limited).held_out
    return {
        "images": len(images),
        "clean_accuracy": accuracy(given.classifier, images, device),
        "noisy_accuracy": noisy_accuracy(
            given.classifier, images, sigma=given.sigma, seed=given.settings.seed, device=device
        ),
    }


def train_in_folder(
    trainer: ClassifierTrainer,
    classifier: Classifier,
    folder: ClassifierFolder,
    origin: str,
    hooks: Hooks,
) -> None:
    """Train to the end, from the folder's checkpoint if there is one, and write the weights.

    Args:
        trainer: that has not taken a step.
        classifier: that is given the weights.
        origin: hash of all that the weights depend on.

    Raises:
        TrainingDivergedError: the loss became NaN or infinite.
    """
    folder.load_progress(trainer, origin)
    train(
        trainer,
        save=lambda: folder.save_progress(trainer, origin),
        on_step=hooks.stage("training, steps"),
    )
    folder.write_weights(trainer.weights())
    classifier.network.load_state_dict(trainer.weights())


def outcome_of(
    trainer: ClassifierTrainer, classifier: Classifier, device: torch.device
) -> dict[str, Any]:
    """Return what every report of a finished training has; the classifier is left on the CPU."""
    return {
        "epochs": [asdict(record) for record in trainer.history],
        "seconds": round(math.fsum(record.seconds for record in trainer.history), 3),
        "precision": trainer.precision,
        "device": device.type,
        "classifier": classifier.cpu().content_hash(),
    }


def noisy_accuracy(
    network: nn.Module, images: LabelledImages, *, sigma: float, seed: int, device: torch.device
) -> float:
    """Return the accuracy of a network on images with Gaussian noise, a mean over a few samples.

    Args:
        network: images [B, C, H, W] in [0,1] pixels to logits [B, K].
        sigma: standard deviation of the noise, in [0,1] pixels.
    """
    generator = torch_generator(seed, "noisy accuracy", device=device)

    def noisy(clean: Tensor) -> Tensor:
        return clean + sigma * torch.randn(clean.shape, generator=generator, device=device)

    correct = 0
    for _ in range(_NOISE_SAMPLES):
        predicted = predicted_classes(network, images.images, device, perturb=noisy)
        correct += int((predicted == images.labels).sum())
    return correct / (_NOISE_SAMPLES * len(images))
