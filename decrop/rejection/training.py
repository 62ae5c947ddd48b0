"""Training of per-class rejectors behind a finished denoiser and classifier."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decrop.classifiers.classifier import Classifier
from decrop.classifiers.feature_maps import StagedClassifier, find_stages
from decrop.config.rejector import BLOCKS, RejectorSettings
from decrop.config.settings import CountOrZero, Share
from decrop.data.augmentation import augment_views
from decrop.errors import RunError
from decrop.rejection.network import Rejector, is_rejected
from decrop.seeds import seeded_globals, torch_generator
from decrop.smoothing.execution import Precision, autocast

_SGD_MOMENTUM = 0.9


@dataclass(frozen=True)
class RejectorEpoch:
    """Means over the draws of an epoch, counted from 1.

    Attributes:
        epoch: number of the epoch.
        learning_rate: of its steps.
        loss: binary cross-entropy of the heads that learnt.
        error_share: share of draws whose class is not that of the clean image.
        seconds: it took.
    """

    epoch: int
    learning_rate: float
    loss: float
    error_share: float
    seconds: float


@dataclass(frozen=True)
class RejectionScores:
    """What a rejector does with noisy images it was not trained on.

    A draw is an error where the class of the denoised image is not that of the clean one.

    Attributes:
        draws: number of noisy images.
        error_share: share of errors among them.
        rejected: share of them that is rejected.
        errors_rejected: share of the errors that is rejected; None without errors.
        right_rejected: share of the others that is rejected; None without others.
    """

    draws: CountOrZero
    error_share: Share
    rejected: Share
    errors_rejected: Share | None
    right_rejected: Share | None


def with_stages(
    settings: RejectorSettings, classifier: Classifier, image_shape: tuple[int, int, int]
) -> RejectorSettings:
    """Return the settings with the names of the classifier's stages, where they are to be found.

    Args:
        settings: to complete.
        classifier: whose stages they are.
        image_shape: C, H, W.
    """
    if settings.stages is not None:
        return settings
    stages = find_stages(classifier, image_shape, most=BLOCKS)
    return settings.model_copy(update={"stages": stages})


def build_rejector(
    settings: RejectorSettings, staged: StagedClassifier, image_shape: tuple[int, int, int]
) -> Rejector:
    """Build an untrained rejector.

    Args:
        settings: its size.
        staged: the classifier whose maps it takes.
        image_shape: C, H, W.

    Raises:
        InputError: a stage of the classifier gives no map.
    """
    # Asked on the device of the classifier, whichever the rejector is to be built on.
    with torch.device("cpu"):
        feature_channels = staged.channels(image_shape)
    return Rejector(
        image_channels=image_shape[0],
        class_count=staged.classifier.class_count,
        feature_channels=feature_channels,
        width=settings.width,
        blocks=settings.blocks,
        hidden_units=settings.hidden_units,
    )


def rejection_targets(
    clean_classes: Tensor, denoised_classes: Tensor, head: Literal["clean", "denoised"]
) -> tuple[Tensor, Tensor]:
    """Return what to reject and which head learns it (Sheikholeslami et al. 2022, eqs. 8 and 9).

    Args:
        clean_classes: int64 [B], of the clean images.
        denoised_classes: int64 [B], of the denoised noisy images.
        head: of which of the two classes the head learns.

    Returns:
        float32 [B], 1 where the classes differ, else 0; and int64 [B], the heads.
    """
    targets = (clean_classes != denoised_classes).float()
    return targets, clean_classes if head == "clean" else denoised_classes


def learning_rate(settings: RejectorSettings, epoch: int) -> float:
    """Return the learning rate of an epoch, counted from 0; drops are counted from SGD's first."""
    if epoch < settings.adam_epochs:
        return settings.adam_learning_rate
    drops = (epoch - settings.adam_epochs) // settings.learning_rate_drop_every
    return settings.learning_rate * settings.learning_rate_drop_factor**drops


class RejectorTrainer:
    """Trains a rejector; its state can be saved between epochs.

    Denoiser and classifier stay in eval mode and get no gradient. Every epoch draws from random
    streams of its own, so a resumed training continues exactly as an uninterrupted one.
    """

    def __init__(
        self,
        settings: RejectorSettings,
        *,
        denoiser: nn.Module,
        classifier: Classifier,
        images: Tensor,
        sigma: float,
        precision: Precision,
        device: torch.device,
    ) -> None:
        """Start from random weights.

        Args:
            settings: of the rejector; its stages are named (`with_stages`).
            denoiser: noisy images [B, C, H, W] to images of the same shape.
            classifier: of the denoised images.
            images: uint8 [N, C, H, W], to train on.
            sigma: standard deviation of the noise, in [0,1] pixels.
            precision: in which the networks compute; weights and loss are fp32.
            device: to train on.

        Raises:
            InputError: the classifier has no such stages.
        """
        if settings.stages is None:
            raise ValueError("stages are not named; with_stages finds them")
        channels, height, width = images.shape[1:]
        shape = (channels, height, width)
        self._settings = settings
        self._sigma = sigma
        self._precision = precision
        self._device = device
        self._denoiser = denoiser.to(device).eval()
        self._classifier = StagedClassifier(classifier, settings.stages).to(device)
        self._images = images.to(device)
        with seeded_globals(settings.seed, "rejector initialisation"):
            self._rejector = build_rejector(settings, self._classifier, shape).to(device)
        self._epochs_done = 0
        self._history: list[RejectorEpoch] = []
        self._optimizer = self._fresh_optimizer(0)

    @property
    def rejector(self) -> Rejector:
        """The rejector as trained so far."""
        return self._rejector

    @property
    def epochs_done(self) -> int:
        """Epochs trained so far."""
        return self._epochs_done

    @property
    def history(self) -> list[RejectorEpoch]:
        """One record an epoch."""
        return list(self._history)

    def run_epoch(self) -> RejectorEpoch:
        """Train one more epoch.

        Raises:
            RunError: the loss became NaN or infinite.
        """
        started = time.monotonic()
        epoch = self._epochs_done
        if epoch == self._settings.adam_epochs:
            self._optimizer = self._fresh_optimizer(epoch)
        rate = learning_rate(self._settings, epoch)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._rejector.train()
        loss_sum, errors, draws = (torch.zeros((), device=self._device) for _ in range(3))
        for clean, noisy in self._batches(epoch):
            loss, targets = self._step(clean, noisy)
            loss_sum += loss * len(targets)
            errors += targets.sum()
            draws += len(targets)
        self._epochs_done += 1
        record = RejectorEpoch(
            epoch=self._epochs_done,
            learning_rate=rate,
            loss=(loss_sum / draws).item(),
            error_share=(errors / draws).item(),
            seconds=time.monotonic() - started,
        )
        if not math.isfinite(record.loss):
            raise RunError(
                f"the rejector's loss is {record.loss} in epoch {self._epochs_done}; try a lower "
                "rejector.adam_learning_rate or rejector.learning_rate."
            )
        self._history.append(record)
        return record

    @torch.no_grad()
    def score(self, images: Tensor) -> RejectionScores:
        """Score the rejector on images that it was not trained on, `noise_draws` of each.

        Args:
            images: uint8 [N, C, H, W].
        """
        self._rejector.eval()
        noise = torch_generator(self._settings.seed, "rejector scores", device=self._device)
        rejected, wrong = [], []
        repeated = torch.arange(len(images)).repeat_interleave(self._settings.noise_draws)
        for rows in repeated.split(self._settings.batch_size):
            clean = images[rows].to(self._device).float() / 255
            noisy = clean + self._sigma * torch.randn(
                clean.shape, generator=noise, device=self._device
            )
            classes, heads = self._heads(noisy)
            wrong.append(classes != self._classes(clean))
            rejected.append(is_rejected(classes, heads, threshold=self._settings.threshold))
        turned_away, errors = torch.cat(rejected), torch.cat(wrong)
        return RejectionScores(
            draws=len(errors),
            error_share=errors.float().mean().item(),
            rejected=turned_away.float().mean().item(),
            errors_rejected=_share(turned_away[errors]),
            right_rejected=_share(turned_away[~errors]),
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later process needs to go on; loads with `weights_only=True`."""
        return {
            "epochs_done": self._epochs_done,
            "rejector": self._rejector.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "history": [asdict(record) for record in self._history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        self._epochs_done = state["epochs_done"]
        self._rejector.load_state_dict(state["rejector"])
        self._history = [RejectorEpoch(**record) for record in state["history"]]
        # The saved optimiser is that of the last finished epoch.
        self._optimizer = self._fresh_optimizer(max(self._epochs_done - 1, 0))
        self._optimizer.load_state_dict(state["optimizer"])

    def _fresh_optimizer(self, epoch: int) -> torch.optim.Optimizer:
        settings, parameters = self._settings, self._rejector.parameters()
        rate = learning_rate(settings, epoch)
        if epoch < settings.adam_epochs:
            return torch.optim.Adam(parameters, lr=rate, weight_decay=settings.weight_decay)
        return torch.optim.SGD(
            parameters, lr=rate, weight_decay=settings.weight_decay, momentum=_SGD_MOMENTUM
        )

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield clean and noisy images, each image `noise_draws` times in an epoch."""
        draws = torch_generator(self._settings.seed, "rejector training", epoch)
        noise = torch_generator(
            self._settings.seed, "rejector training noise", epoch, device=self._device
        )
        total = len(self._images) * self._settings.noise_draws
        order = torch.randperm(total, generator=draws) % len(self._images)
        # Equal parts: no step has a single image, which BatchNorm could not take.
        for rows in order.tensor_split(-(-total // self._settings.batch_size)):
            [clean] = augment_views(
                [self._images[rows.to(self._device)].float() / 255],
                self._settings.augmentation,
                draws,
            )
            yield (
                clean,
                clean
                + self._sigma * torch.randn(clean.shape, generator=noise, device=self._device),
            )

    def _step(self, clean: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """Take one step and return its loss and targets."""
        classes, heads = self._heads(noisy)
        targets, learning = rejection_targets(self._classes(clean), classes, self._settings.head)
        loss = F.binary_cross_entropy_with_logits(heads.gather(1, learning[:, None])[:, 0], targets)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss.detach(), targets

    @torch.no_grad()
    def _classes(self, clean: Tensor) -> Tensor:
        with autocast(self._precision, self._device):
            logits: Tensor = self._classifier(clean)[0]
        return logits.argmax(dim=1)

    def _heads(self, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """Return the classes of the denoised images, and the heads' logits as float32."""
        with autocast(self._precision, self._device):
            with torch.no_grad():
                denoised = self._denoiser(noisy.contiguous(memory_format=torch.channels_last))
                logits, maps = self._classifier(denoised)
            heads = self._rejector(denoised, maps)
        return logits.argmax(dim=1), heads.float()


def _share(flags: Tensor) -> float | None:
    return flags.float().mean().item() if len(flags) else None
