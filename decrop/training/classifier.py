"""Training of a classifier: plainly, with noise, with ADRE's regulariser, adversarially."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decrop.classifiers.classifier import Classifier
from decrop.config import AugmentationSettings
from decrop.config.classifier_training import (
    CLASSIFIER_OBJECTIVES,
    ClassifierTrainingSettings,
)
from decrop.data.augmentation import moved
from decrop.seeds import seeded_globals, torch_generator
from decrop.smoothing.execution import resolve_precision
from decrop.smoothing.prepare import copied
from decrop.training.adversarial import smoothed_adversaries
from decrop.training.loop import Terms, Trainer
from decrop.training.schedule import (
    Schedule,
    dropped_rate,
    one_cycle_rates,
    steps_an_epoch,
)


@dataclass(frozen=True)
class ClassifierEpoch:
    """Means over the images of an epoch, counted from 1, as they were trained on.

    Attributes:
        learning_rate: of its first step.
        cross_entropy: the first term of the loss.
        runner_up_cross_entropy: of ADRE's regulariser; None where the loss does not have it.
        accuracy: on the (noisy, adversarial) images.
    """

    epoch: int
    learning_rate: float
    cross_entropy: float
    runner_up_cross_entropy: float | None
    total: float
    accuracy: float
    seconds: float


class ClassifierTrainer(Trainer[ClassifierEpoch, Tensor]):
    """Trains a copy of a classifier's network."""

    record_type = ClassifierEpoch
    loss_name = "the classifier's loss"
    remedy = "a lower classifier.training.learning_rate or regularisation_weight"

    def __init__(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        settings: ClassifierTrainingSettings,
        *,
        sigma: float,
        device: torch.device,
    ) -> None:
        """Begin a training.

        Args:
            classifier: whose architecture and channel standardisation are taken, and whose weights,
                where `settings.initial_weights` are given.
            images: uint8 [n, C, H, W].
            labels: int64 [n]; for the plain objective also probabilities, float [n, K].
            sigma: standard deviation of the noise, in [0,1] pixels; not used by the plain
                objective.
        """
        super().__init__(
            _initial_network(classifier, settings, device),
            classifier_schedule(settings, len(labels)),
            precision=resolve_precision(settings.precision, device),
            device=device,
        )
        self._settings = settings
        self._sigma = sigma
        self._images = images.to(device)
        self._labels = labels.to(device)
        self._mean, self._std = classifier.mean.to(device), classifier.std.to(device)
        self._augmentation = AugmentationSettings(
            policy="none" if settings.augmentation == "none" else 1,
            crop_padding=settings.crop_padding,
            flip_probability=settings.flip_probability,
        )

    def advance(self) -> None:
        """Take a step: an epoch over a whole training split is long."""
        self.step()

    def _record(self, epoch: int, means: Mapping[str, float], **timing: float) -> ClassifierEpoch:
        return ClassifierEpoch(
            epoch=epoch,
            cross_entropy=means["cross_entropy"],
            runner_up_cross_entropy=means.get("runner_up"),
            total=means["total"],
            accuracy=means["accuracy"],
            **timing,
        )

    def _batches(self, epoch: int) -> tuple[Tensor, ...]:
        generator = torch_generator(self._settings.seed, "classifier shuffling", epoch)
        order = torch.randperm(len(self._labels), generator=generator).to(self._device)
        # Equal parts: no batch is left with a single image, which BatchNorm could not take.
        return order.tensor_split(self.steps_an_epoch)

    def _step(self, batch: Tensor) -> Terms:
        # Dropout samples from the global generators.
        with seeded_globals(self._settings.seed, "classifier step", self.steps_done):
            return self._trained_on(self._images[batch], self._labels[batch])

    def _trained_on(self, pixels: Tensor, labels: Tensor) -> Terms:
        settings = self._settings
        images, noise = self._augmented(pixels.float() / 255), None
        if settings.noisy:
            noise = self._noise(images)
        if settings.attacks:
            assert noise is not None
            images = self._adversaries(images, labels, noise)
        self.network.train()
        logits = self._classify(images[None] if noise is None else images + noise)
        values: dict[str, Tensor] = CLASSIFIER_OBJECTIVES.build(
            settings.objective, logits, labels, settings
        )
        self._descend(values["total"])
        classes = labels if labels.ndim == 1 else labels.argmax(1)
        values["accuracy"] = (logits.argmax(2) == classes).float().mean()
        return Terms(values, weight=len(labels))

    def _augmented(self, images: Tensor) -> Tensor:
        generator = torch_generator(self._settings.seed, "classifier augmentation", self.steps_done)
        (augmented,) = moved([images], self._augmentation, generator)
        return augmented

    def _noise(self, images: Tensor) -> Tensor:
        generator = torch_generator(
            self._settings.seed, "classifier noise", self.steps_done, device=self._device
        )
        shape = (self._settings.noise_samples, *images.shape)
        return self._sigma * torch.randn(shape, generator=generator, device=self._device)

    def _adversaries(self, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        # As SmoothAdv's published code attacks: in eval mode, so that BatchNorm's statistics are
        # not those of attacks under way.
        self.network.eval()
        return smoothed_adversaries(
            self._classify,
            images,
            labels,
            noise,
            epsilon=self._settings.attack_epsilon,
            steps=self._settings.attack_steps,
            regularisation_weight=self._settings.effective_regularisation_weight,
        )

    def _classify(self, noisy: Tensor) -> Tensor:
        """Return logits [N, B, K] of images [N, B, C, H, W] in [0,1] pixels."""
        standardised = (noisy.flatten(0, 1) - self._mean) / self._std
        logits: Tensor = self._forward(self.network, standardised).unflatten(0, noisy.shape[:2])
        return logits


def classifier_schedule(settings: ClassifierTrainingSettings, images: int) -> Schedule:
    """Return the schedule of a classifier's training on so many images."""
    in_epoch = steps_an_epoch(images, settings.batch_size)
    steps = settings.epochs * in_epoch

    def learning_rate(step: int) -> float:
        if settings.schedule == "one_cycle":
            return one_cycle_rates(settings.learning_rate, steps)[step]
        return dropped_rate(settings, step // in_epoch)

    return Schedule(
        steps,
        in_epoch,
        lambda _: (0, settings.optimizer),
        learning_rate,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
    )


def _initial_network(
    classifier: Classifier, settings: ClassifierTrainingSettings, device: torch.device
) -> nn.Module:
    network = copied(classifier.network).requires_grad_()
    if settings.initial_weights is None:
        with seeded_globals(settings.seed, "classifier initialisation"):
            for module in network.modules():
                reset = getattr(module, "reset_parameters", None)
                if reset is not None:
                    reset()
    # No overload of `to` in PyTorch's annotations takes a memory format.
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
