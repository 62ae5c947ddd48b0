"""What a trial trains and certifies: a denoiser before the classifier, or the classifier itself."""

import copy
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn

from decrop.classifiers.classifier import Classifier
from decrop.classifiers.storage import AnyClassifier, load_stored_classifier, store_classifier
from decrop.config import TrialConfig
from decrop.data.limited import LabelledImages
from decrop.synthesis.synthetic_samples import SyntheticSamples
from decrop.training.classifier import ClassifierTrainer
from decrop.training.denoiser import DenoiserTrainer
from decrop.training.loop import AnyTrainer
from decrop.training.trained_classifier import ClassifierToTrain
from decrop.trial.folder import TrialFolder, load_denoiser, save_denoiser, save_sample_figures
from decrop.trial.inputs import TrialInputs, check_classifier_trial
from decrop.trial.result import Split


class TrainedPart(Protocol):
    """What a trial trains, and the function that it certifies."""

    @property
    def title(self) -> str:
        """What a figure calls it."""
        ...

    @property
    def trainer(self) -> AnyTrainer:
        """Whose progress is saved."""
        ...

    @property
    def network(self) -> nn.Module:
        """Noisy images to logits, with the weights so far."""
        ...

    @property
    def classifier(self) -> AnyClassifier:
        """The classifier in it, that of test images."""
        ...

    @property
    def epochs(self) -> int:
        """Epochs that it is trained for."""
        ...

    @property
    def flip_rate(self) -> float | None:
        """Share of the boundary samples that changed the prediction, where it has any."""
        ...

    @property
    def seconds(self) -> Mapping[str, float]:
        """How long its stages took, the training last."""
        ...

    def save(self, folder: TrialFolder) -> None:
        """Write the weights so far."""

    def restore(self, folder: TrialFolder) -> None:
        """Take the weights that were written."""

    def draw(self, folder: TrialFolder) -> None:
        """Draw what takes seconds, too long for every trial of a sweep."""


class DenoiserPart:
    """A denoiser before a classifier that stays as it is.

    Args:
        config: the trial's settings.
        inputs: with the classifier.
        samples: of all limited images.
        training_mask: bool [n], which of them it is trained on.
        trainer: of the denoiser.
        certified: the classifier behind it when it is certified.
        device: where to draw figures.
        seconds: that the stages before the training took.
    """

    title = "this denoiser"

    def __init__(
        self,
        config: TrialConfig,
        inputs: TrialInputs,
        samples: SyntheticSamples,
        training_mask: torch.Tensor,
        trainer: DenoiserTrainer,
        certified: AnyClassifier,
        *,
        device: torch.device,
        seconds: Mapping[str, float],
    ) -> None:
        self.trainer = trainer
        self.network = nn.Sequential(trainer.denoiser, certified)
        self.classifier = inputs.protected
        self.epochs = sum(config.training.phase_epochs)
        self.flip_rate = samples.subset(training_mask).flip_rate
        self._config, self._inputs, self._samples = config, inputs, samples
        self._device, self._stages = device, seconds

    @property
    def seconds(self) -> Mapping[str, float]:
        """See `TrainedPart`."""
        return {
            **self._stages,
            "training": sum(record.seconds for record in self.trainer.history),
        }

    def save(self, folder: TrialFolder) -> None:
        """Write the denoiser's weights."""
        save_denoiser(folder, self.trainer.denoiser)

    def restore(self, folder: TrialFolder) -> None:
        """Take the denoiser's weights."""
        load_denoiser(folder, self.trainer.denoiser)

    def draw(self, folder: TrialFolder) -> None:
        """Draw samples and features."""
        save_sample_figures(
            folder.figures_path,
            self._config,
            self._samples,
            self._inputs.limited.all.labels,
            self._inputs.classifier,
            self.trainer.denoiser,
            self._inputs.class_names,
            device=self._device,
        )


class ClassifierPart:
    """The classifier itself, with nothing before it.

    Args:
        config: the trial's settings.
        inputs: with the classifier that its training starts from.
        split: the held-out images are trained on for `test` alone, and only where the settings
            train on the limited data.
        device: where to train.

    Raises:
        InputError: the settings are none of a trial that trains its classifier.
    """

    title = "this classifier"
    flip_rate: float | None = None

    def __init__(
        self, config: TrialConfig, inputs: TrialInputs, split: Split, device: torch.device
    ) -> None:
        check_classifier_trial(config)
        settings = config.classifier.training
        assert settings is not None
        self._class_names = inputs.class_names
        given = ClassifierToTrain(
            classifier=copy.deepcopy(inputs.classifier),
            settings=settings.model_copy(update={"seed": settings.seed + config.seed}),
            images=_training_images(inputs, settings.trained_on == "limited", split),
            sigma=config.sigma if settings.sigma is None else settings.sigma,
        )
        self.epochs = settings.epochs
        self.trainer: ClassifierTrainer = given.trainer(device)
        self.classifier = given.classifier
        # What is certified is what is trained, at every moment.
        self.classifier.network = self.trainer.network.eval()
        self.network = self.classifier

    @property
    def seconds(self) -> Mapping[str, float]:
        """See `TrainedPart`."""
        return {"training": sum(record.seconds for record in self.trainer.history)}

    def save(self, folder: TrialFolder) -> None:
        """Write the classifier as bundles hold it."""
        store_classifier(self.classifier, self._class_names, folder.classifier_path)

    def restore(self, folder: TrialFolder) -> None:
        """Take the classifier's weights."""
        kept, _ = load_stored_classifier(folder.classifier_path)
        assert isinstance(kept, Classifier)  # `save` wrote it
        self.classifier.network.load_state_dict(kept.network.state_dict())

    def draw(self, folder: TrialFolder) -> None:
        """Draw nothing: there are no samples."""


def _training_images(inputs: TrialInputs, limited: bool, split: Split) -> LabelledImages:
    if limited:
        held_out = inputs.limited.held_out_mask
        everything = inputs.limited.all
        return everything if split == "test" else everything.subset(~held_out)
    assert inputs.training_images is not None  # check_classifier_trial passed
    return inputs.training_images
