"""Kinds of trials: with a denoiser, with a classifier that is trained, with one that was."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import nn

from decrop.cache import ContentCache, Tensors
from decrop.classifiers.storage import AnyClassifier, load_stored_classifier, store_classifier
from decrop.config import TrialConfig
from decrop.config.trial import Part
from decrop.data.limited import LabelledImages
from decrop.denoisers.sources import OpenedDenoiser
from decrop.networks.denoised import DenoisedClassifier
from decrop.smoothing.execution import resolve_device, resolve_precision
from decrop.smoothing.prepare import copied
from decrop.synthesis.synthetic_samples import synthetic_samples
from decrop.training.denoiser import DenoiserTrainer
from decrop.training.hooks import Hooks, OnCount, TrialStoppedError
from decrop.training.loop import AnyTrainer, train
from decrop.training.prior import Prior, prior_weights
from decrop.training.trained_classifier import ClassifierToTrain
from decrop.trial.certify import with_fitting_execution
from decrop.trial.folder import TrialFolder, save_sample_figures
from decrop.trial.inputs import TrialInputs, check_classifier_trial
from decrop.trial.result import Split

OnEpoch = Callable[[int], None]


class TrainedPart(ABC):
    """What a trial trains, and the function that it certifies.

    Attributes:
        title: what a figure calls it.
        config: the trial's settings, with the precision and layout that its networks need.
        network: noisy images to logits, with the weights so far.
        classifier: the classifier in it, that of test images.
        unscored_epochs: at the beginning, in which scores would tell nothing of the end.
        flip_rate: share of the boundary samples that changed the prediction, where it has any.
    """

    title: str
    config: TrialConfig
    network: nn.Module
    classifier: AnyClassifier
    epochs: int
    unscored_epochs: int = 0
    flip_rate: float | None = None

    @property
    @abstractmethod
    def history(self) -> Sequence[Mapping[str, Any]]:
        """One record an epoch."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """How long its stages took, the training last."""
        return {"training": sum(record["seconds"] for record in self.history)}

    @property
    @abstractmethod
    def epochs_done(self) -> int:
        """Epochs that are trained to their end."""

    @abstractmethod
    def train(self, folder: TrialFolder, epochs: int, hooks: Hooks, on_epoch: OnEpoch) -> None:
        """Train until so many epochs are done, saving the state to resume from in the folder.

        Args:
            epochs: that are done in the end.

        Raises:
            TrialStoppedError: the hooks said so.
        """

    @abstractmethod
    def save(self, folder: TrialFolder) -> None:
        """Write the weights so far."""

    @abstractmethod
    def restore(self, folder: TrialFolder) -> None:
        """Take the weights that were written."""

    def load_progress(self, folder: TrialFolder) -> None:  # noqa: B027
        """Go on from the state in a folder, if there is one."""

    def draw(self, folder: TrialFolder) -> None:  # noqa: B027
        """Draw what takes seconds, too long for every trial of a sweep."""


class _InTraining(TrainedPart):
    """A part that is being trained."""

    def __init__(self, trainer: AnyTrainer) -> None:
        self._trainer = trainer

    @property
    def epochs_done(self) -> int:
        return self._trainer.epochs_done

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        return [asdict(record) for record in self._trainer.history]

    def load_progress(self, folder: TrialFolder) -> None:
        folder.load_progress(self._trainer)

    def train(self, folder: TrialFolder, epochs: int, hooks: Hooks, on_epoch: OnEpoch) -> None:
        trainer = self._trainer
        trained = train(
            trainer,
            epochs=epochs,
            save=partial(folder.save_progress, trainer),
            on_step=lambda steps, _: on_epoch(steps // trainer.steps_an_epoch),
            should_stop=hooks.should_stop,
        )
        if not trained:
            raise TrialStoppedError


class DenoiserPart(_InTraining):
    """A denoiser before a classifier that stays as it is.

    Args:
        split: the held-out images are trained on for `test` alone.
    """

    title = "this denoiser"

    def __init__(
        self,
        config: TrialConfig,
        inputs: TrialInputs,
        split: Split,
        cache: ContentCache,
        hooks: Hooks,
    ) -> None:
        images = inputs.limited
        shape = tuple(images.all.images.shape[1:])
        config = with_fitting_execution(config, inputs.classifier, shape, trained_through=True)
        device = resolve_device(config.execution.device)
        started = time.monotonic()
        # Of all limited images, so that trial and final training share an entry; trials drop some.
        samples = synthetic_samples(
            config, inputs.classifier, images, cache=cache, device=device, say=hooks.say
        )
        stages = {"stage1": time.monotonic() - started}
        started = time.monotonic()
        prior = _prior(
            config, shape, inputs.denoiser, cache, device, hooks.stage("pretraining, steps")
        )
        if prior is not None:
            stages["prior"] = time.monotonic() - started
        held_out = images.held_out_mask
        training_mask = ~held_out if split == "held_out" else torch.ones_like(held_out)
        trainer = DenoiserTrainer(
            config,
            inputs.classifier,
            samples.subset(training_mask),
            device,
            initial_weights=prior,
            opened=inputs.denoiser,
        )
        super().__init__(trainer)
        self._stages = stages
        self.config = config
        self.classifier = inputs.protected
        certified = inputs.classifier if split == "held_out" else inputs.protected
        self.network = DenoisedClassifier(
            trainer.denoiser, certified, mirrored=config.denoiser.mirrored
        )
        self.epochs = sum(config.training.phase_epochs)
        self.unscored_epochs = config.training.mse_epochs
        self.flip_rate = samples.subset(training_mask).flip_rate
        self._denoiser = trainer.denoiser
        self._inputs, self._samples, self._device = inputs, samples, device

    @property
    def seconds(self) -> Mapping[str, float]:
        return {**self._stages, **super().seconds}

    def save(self, folder: TrialFolder) -> None:
        opened = self._inputs.denoiser
        folder.save_denoiser(self._denoiser, None if opened is None else opened.settings)

    def restore(self, folder: TrialFolder) -> None:
        folder.load_denoiser(self._denoiser)

    def draw(self, folder: TrialFolder) -> None:
        """Draw samples and features."""
        # It takes matplotlib.
        from decrop.evaluation.sample_figures import PicturedSamples

        config, inputs, labels = self.config, self._inputs, self._inputs.limited.all.labels
        shown = PicturedSamples(
            self._samples, labels, inputs.classifier, inputs.class_names, config.seed, self._device
        )
        save_sample_figures(folder.figures_path, shown, self._denoiser, sigma=config.sigma)


class ClassifierPart(_InTraining):
    """The classifier itself, with nothing before it.

    Args:
        inputs: with the classifier that its training starts from.
        split: the held-out images are trained on for `test` alone, and only where the settings
            train on the limited data.
        cache: not used: the classifier is the trial's own.
        hooks: not used.
    """

    title = "this classifier"

    def __init__(
        self,
        config: TrialConfig,
        inputs: TrialInputs,
        split: Split,
        cache: ContentCache,
        hooks: Hooks,
    ) -> None:
        check_classifier_trial(config)
        settings = config.classifier.training
        assert settings is not None
        shape = tuple(inputs.limited.all.images.shape[1:])
        self.config = with_fitting_execution(config, inputs.classifier, shape)
        self._class_names = inputs.class_names
        given = ClassifierToTrain(
            classifier=copied(inputs.classifier),
            settings=settings.model_copy(update={"seed": settings.seed + config.seed}),
            images=_training_images(inputs, settings.trained_on == "limited", split),
            sigma=config.sigma if settings.sigma is None else settings.sigma,
        )
        self.epochs = settings.epochs
        trainer = given.trainer(resolve_device(config.execution.device))
        super().__init__(trainer)
        # What is certified is what is trained, at every moment.
        given.classifier.network = trainer.network.eval()
        self.classifier = self.network = given.classifier

    def save(self, folder: TrialFolder) -> None:
        store_classifier(self.classifier, self._class_names, folder.classifier_path)

    def restore(self, folder: TrialFolder) -> None:
        kept, _ = load_stored_classifier(folder.classifier_path)
        own = self.classifier.white_box().network
        own.load_state_dict(kept.white_box().network.state_dict())


class FinishedClassifierPart(TrainedPart):
    """The classifier of a finished trial, which stays as it was trained."""

    title = ClassifierPart.title

    def __init__(self, config: TrialConfig, trained: TrialFolder) -> None:
        self.config = config
        self.classifier, self._class_names = load_stored_classifier(trained.classifier_path)
        self.network = self.classifier
        self._history = trained.read_history()
        self.epochs = trained.reports[-1].epoch

    @property
    def epochs_done(self) -> int:
        return self.epochs

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        return self._history

    def train(self, folder: TrialFolder, epochs: int, hooks: Hooks, on_epoch: OnEpoch) -> None:
        folder.write_history(self._history)

    def save(self, folder: TrialFolder) -> None:
        store_classifier(self.classifier, self._class_names, folder.classifier_path)

    def restore(self, folder: TrialFolder) -> None:
        """Do nothing: there is one set of weights."""


def _prior(
    config: TrialConfig,
    shape: tuple[int, ...],
    opened: OpenedDenoiser | None,
    cache: ContentCache,
    device: torch.device,
    on_step: OnCount,
) -> Tensors | None:
    channels, height, width = shape
    prior = Prior(
        config.prior,
        config.denoiser,
        sigma=config.sigma,
        image_shape=(channels, height, width),
        seed=config.seed,
        precision=resolve_precision(config.execution.training_precision, device),
        opened=opened,
    )
    return prior_weights(prior, cache, device, on_step)


def _training_images(inputs: TrialInputs, limited: bool, split: Split) -> LabelledImages:
    if limited:
        return inputs.limited.all if split == "test" else inputs.limited.without_held_out
    assert inputs.training_images is not None  # check_classifier_trial passed
    return inputs.training_images


PARTS: dict[Part, Callable[[TrialConfig, TrialInputs, Split, ContentCache, Hooks], TrainedPart]] = {
    "denoiser": DenoiserPart,
    "classifier": ClassifierPart,
}
