"""Train a classifier step by step: plainly, with noise, with ADRE's regulariser, adversarially."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from decrop.classifiers.classifier import Classifier
from decrop.config import AugmentationSettings
from decrop.config.classifier_training import ClassifierTrainingSettings
from decrop.data.augmentation import moved
from decrop.seeds import seeded_globals, torch_generator
from decrop.smoothing.execution import autocast, resolve_precision
from decrop.training.adversarial import smoothed_adversaries
from decrop.training.classifier_losses import (
    perturbed_cross_entropy,
    runner_up_cross_entropy,
    smoothed_log_probabilities,
)
from decrop.training.denoiser import TrainingDivergedError
from decrop.training.schedule import dropped_rate, one_cycle_rates


@dataclass(frozen=True)
class ClassifierEpoch:
    """Means over the images of an epoch, counted from 1, as they were trained on.

    Attributes:
        epoch: counted from 1.
        learning_rate: of its first step.
        cross_entropy: the first term of the loss.
        runner_up_cross_entropy: of ADRE's regulariser; None where the loss does not have it.
        total: the loss.
        accuracy: on the (noisy, adversarial) images.
        seconds: that its steps took.
    """

    epoch: int
    learning_rate: float
    cross_entropy: float
    runner_up_cross_entropy: float | None
    total: float
    accuracy: float
    seconds: float


class ClassifierTrainer:
    """Trains a copy of a classifier's network; its state can be saved between any two steps.

    Every step draws from random streams of its own, so a resumed training continues exactly as an
    uninterrupted one.

    Args:
        classifier: whose architecture and channel standardisation are taken, and whose weights,
            where `settings.initial_weights` are given.
        images: uint8 [n, C, H, W].
        labels: int64 [n]; for the plain objective also probabilities, float [n, K].
        settings: objective and schedule.
        sigma: standard deviation of the noise, in [0,1] pixels; not used by the plain objective.
        device: where to train.
    """

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
        self._settings = settings
        self._sigma = sigma
        self._device = device
        self._precision = resolve_precision(settings.precision, device)
        self._images = images.to(device)
        self._labels = labels.to(device)
        self._mean, self._std = classifier.mean.to(device), classifier.std.to(device)
        self._augmentation = AugmentationSettings(
            policy="none" if settings.augmentation == "none" else 1,
            crop_padding=settings.crop_padding,
            flip_probability=settings.flip_probability,
        )
        self._network = _initial_network(classifier, settings, device)
        self._optimizer = _optimizer(self._network, settings)
        self._steps_an_epoch = -(-len(labels) // settings.batch_size)
        self._batches: tuple[Tensor, ...] = ()
        self._steps_done = 0
        self._sums = torch.zeros(4, dtype=torch.float64)
        self._seconds = 0.0
        self._history: list[ClassifierEpoch] = []

    @property
    def network(self) -> nn.Module:
        """The network in training, on its device; standardised images to logits."""
        return self._network

    @property
    def epochs_done(self) -> int:
        """Epochs that are trained to their end."""
        return self._steps_done // self._steps_an_epoch

    @property
    def steps_done(self) -> int:
        """Steps trained so far."""
        return self._steps_done

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self._settings.epochs * self._steps_an_epoch

    @property
    def history(self) -> list[ClassifierEpoch]:
        """One record an epoch."""
        return list(self._history)

    def weights(self) -> dict[str, Tensor]:
        """Return the network's weights so far, on its device."""
        return {name: tensor.detach() for name, tensor in self._network.state_dict().items()}

    def step(self) -> None:
        """Take one more step.

        Raises:
            TrainingDivergedError: the loss became NaN or infinite in the epoch that ends.
        """
        started = time.monotonic()
        epoch, position = divmod(self._steps_done, self._steps_an_epoch)
        if not self._batches or position == 0:
            self._batches = self._epoch_batches(epoch)
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate(self._steps_done)
        rows = self._batches[position]
        # Dropout draws from the global generators.
        with seeded_globals(self._settings.seed, "classifier step", self._steps_done):
            terms = self._trained_on(self._images[rows], self._labels[rows])
        self._sums = self._sums.to(self._device) + len(rows) * terms
        self._steps_done += 1
        if position + 1 == self._steps_an_epoch:
            self._end_epoch(started)
        else:
            self._seconds += time.monotonic() - started

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later process needs to go on; loads with `weights_only=True`."""
        return {
            "steps_done": self._steps_done,
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "sums": self._sums,
            "seconds": self._seconds,
            "history": [asdict(record) for record in self._history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        self._steps_done = state["steps_done"]
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._sums = state["sums"]
        self._seconds = state["seconds"]
        self._history = [ClassifierEpoch(**record) for record in state["history"]]
        self._batches = ()

    def _epoch_batches(self, epoch: int) -> tuple[Tensor, ...]:
        generator = torch_generator(self._settings.seed, "classifier shuffling", epoch)
        order = torch.randperm(len(self._labels), generator=generator).to(self._device)
        # Equal parts: no batch is left with a single image, which BatchNorm could not take.
        return order.tensor_split(self._steps_an_epoch)

    def _learning_rate(self, step: int) -> float:
        if self._settings.schedule == "one_cycle":
            return one_cycle_rates(self._settings.learning_rate, self.steps)[step]
        return dropped_rate(self._settings, step // self._steps_an_epoch)

    def _trained_on(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Take a step; return cross-entropy, that of the runner-up, loss and accuracy, [4]."""
        settings = self._settings
        images, noise = self._augmented(pixels.float() / 255), None
        if settings.noisy:
            noise = self._noise(images)
        if settings.attacks:
            assert noise is not None
            images = self._adversaries(images, labels, noise)
        self._network.train()
        logits = self._classify(images[None] if noise is None else images + noise)
        # The draws are exchangeable, so the first is as random as any.
        used = logits if settings.cross_entropy_samples == "all" else logits[:1]
        cross_entropy = perturbed_cross_entropy(used, labels)
        runner_up = torch.zeros_like(cross_entropy)
        weight = settings.effective_regularisation_weight
        if weight:
            log_probabilities = smoothed_log_probabilities(logits)
            runner_up = runner_up_cross_entropy(log_probabilities, labels).mean()
        total = cross_entropy - weight * runner_up
        self._optimizer.zero_grad()
        total.backward()
        self._optimizer.step()
        classes = labels if labels.ndim == 1 else labels.argmax(1)
        accuracy = (logits.argmax(2) == classes).float().mean()
        return torch.stack([cross_entropy, runner_up, total, accuracy]).detach().double()

    def _augmented(self, images: Tensor) -> Tensor:
        generator = torch_generator(
            self._settings.seed, "classifier augmentation", self._steps_done
        )
        (augmented,) = moved([images], self._augmentation, generator)
        return augmented

    def _noise(self, images: Tensor) -> Tensor:
        generator = torch_generator(
            self._settings.seed, "classifier noise", self._steps_done, device=self._device
        )
        shape = (self._settings.noise_samples, *images.shape)
        return self._sigma * torch.randn(shape, generator=generator, device=self._device)

    def _adversaries(self, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        # As SmoothAdv's published code attacks: in eval mode, so that BatchNorm's statistics are
        # not those of attacks under way.
        self._network.eval()
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
        with autocast(self._precision, self._device):
            logits = self._network(standardised.contiguous(memory_format=torch.channels_last))
        drawn: Tensor = logits.float().unflatten(0, noisy.shape[:2])
        return drawn

    def _end_epoch(self, started: float) -> None:
        cross_entropy, runner_up, total, accuracy = (self._sums / len(self._labels)).tolist()
        regularised = self._settings.effective_regularisation_weight > 0
        record = ClassifierEpoch(
            epoch=self._steps_done // self._steps_an_epoch,
            learning_rate=self._learning_rate(self._steps_done - self._steps_an_epoch),
            cross_entropy=cross_entropy,
            runner_up_cross_entropy=runner_up if regularised else None,
            total=total,
            accuracy=accuracy,
            seconds=self._seconds + time.monotonic() - started,
        )
        if not math.isfinite(total):
            raise TrainingDivergedError(
                f"the classifier's loss is {total} in epoch {record.epoch}; try a lower "
                "classifier.training.learning_rate or regularisation_weight."
            )
        self._history.append(record)
        self._sums, self._seconds = torch.zeros_like(self._sums), 0.0


def train_to_end(
    trainer: ClassifierTrainer,
    *,
    save: Callable[[], None] | None = None,
    save_every_seconds: float = 30.0,
    on_step: Callable[[int, int], None] | None = None,
) -> None:
    """Take all steps that are left.

    Args:
        trainer: to go on with.
        save: called now and then, and after the last step.
        save_every_seconds: time between such calls.
        on_step: called with steps done and in all.

    Raises:
        TrainingDivergedError: the loss became NaN or infinite.
    """
    saved = time.monotonic()
    while trainer.steps_done < trainer.steps:
        trainer.step()
        if on_step is not None:
            on_step(trainer.steps_done, trainer.steps)
        last = trainer.steps_done == trainer.steps
        if save is not None and (last or time.monotonic() - saved > save_every_seconds):
            save()
            saved = time.monotonic()


def _initial_network(
    classifier: Classifier, settings: ClassifierTrainingSettings, device: torch.device
) -> nn.Module:
    network = copy.deepcopy(classifier.network).requires_grad_()
    if settings.initial_weights is None:
        with seeded_globals(settings.seed, "classifier initialisation"):
            for module in network.modules():
                reset = getattr(module, "reset_parameters", None)
                if reset is not None:
                    reset()
    # No overload of `to` in PyTorch's annotations takes a memory format.
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _optimizer(network: nn.Module, settings: ClassifierTrainingSettings) -> torch.optim.Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), lr=rate, weight_decay=decay)
    return torch.optim.SGD(
        network.parameters(), lr=rate, weight_decay=decay, momentum=settings.momentum
    )
