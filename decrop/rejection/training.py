"""Training of per-class rejectors behind a finished denoiser and classifier."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decrop.classifiers.classifier import Classifier
from decrop.classifiers.feature_maps import StagedClassifier, find_stages
from decrop.config.rejector import BLOCKS, RejectorSettings
from decrop.config.settings import CountOrZero, Share
from decrop.data.augmentation import augment_views
from decrop.rejection.network import Rejector, is_rejected
from decrop.seeds import seeded_globals, torch_generator
from decrop.smoothing.execution import Precision, autocast
from decrop.training.loop import Terms, Trainer
from decrop.training.schedule import Schedule, dropped_rate, steps_an_epoch


@dataclass(frozen=True)
class RejectorEpoch:
    """Means over the noisy images of an epoch, counted from 1.

    Attributes:
        learning_rate: of its steps.
        loss: binary cross-entropy of the heads that learnt.
        error_share: share of them whose class is not that of the clean image.
    """

    epoch: int
    learning_rate: float
    loss: float
    error_share: float
    seconds: float


@dataclass(frozen=True)
class RejectionScores:
    """What a rejector does with noisy images it was not trained on.

    One is an error where its class, once denoised, is not that of the clean image.

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
    """Return the settings with the names of the classifier's stages, where they are to be found."""
    if settings.stages is not None:
        return settings
    stages = find_stages(classifier, image_shape, most=BLOCKS)
    return settings.model_copy(update={"stages": stages})


def build_rejector(
    settings: RejectorSettings, staged: StagedClassifier, image_shape: tuple[int, int, int]
) -> Rejector:
    """Build an untrained rejector."""
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


def rejector_schedule(settings: RejectorSettings, images: int) -> Schedule:
    """Return the schedule of a rejector's training: Adam, then SGD, whose drops it begins."""
    steps = steps_an_epoch(images * settings.noise_draws, settings.batch_size)
    adam = settings.adam_epochs

    def learning_rate(step: int) -> float:
        epoch = step // steps
        if epoch < adam:
            return settings.adam_learning_rate
        return dropped_rate(settings, epoch - adam)

    return Schedule(
        settings.epochs * steps,
        steps,
        lambda epoch: (0, "adam" if epoch < adam else "sgd"),
        learning_rate,
        weight_decay=settings.weight_decay,
    )


class RejectorTrainer(Trainer[RejectorEpoch, tuple[Tensor, Tensor]]):
    """Trains a rejector; denoiser and classifier stay in eval mode and get no gradient."""

    record_type = RejectorEpoch
    loss_name = "the rejector's loss"
    remedy = "a lower rejector.adam_learning_rate or rejector.learning_rate"

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
            images: uint8 [N, C, H, W], to train on.
            sigma: standard deviation of the noise, in [0,1] pixels.
            precision: in which the networks compute; weights and loss are fp32.
        """
        if settings.stages is None:
            raise ValueError("stages are not named; with_stages finds them")
        channels, height, width = images.shape[1:]
        shape = (channels, height, width)
        staged = StagedClassifier(classifier, settings.stages).to(device)
        with seeded_globals(settings.seed, "rejector initialisation"):
            rejector = build_rejector(settings, staged, shape).to(device)
        super().__init__(
            rejector, rejector_schedule(settings, len(images)), precision=precision, device=device
        )
        self.rejector = rejector
        self._settings = settings
        self._sigma = sigma
        self._denoiser = denoiser.to(device).eval()
        self._classifier = staged
        self._images = images.to(device)

    @torch.no_grad()
    def score(self, images: Tensor) -> RejectionScores:
        """Score the rejector on images that it was not trained on, `noise_draws` of each.

        Args:
            images: uint8 [N, C, H, W].
        """
        self.rejector.eval()
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

    def _record(self, epoch: int, means: Mapping[str, float], **timing: float) -> RejectorEpoch:
        return RejectorEpoch(
            epoch=epoch, loss=means["total"], error_share=means["error_share"], **timing
        )

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield clean and noisy images, each image `noise_draws` times in an epoch."""
        choices = torch_generator(self._settings.seed, "rejector training", epoch)
        noise = torch_generator(
            self._settings.seed, "rejector training noise", epoch, device=self._device
        )
        total = len(self._images) * self._settings.noise_draws
        order = torch.randperm(total, generator=choices) % len(self._images)
        # Equal parts: no step has a single image, which BatchNorm could not take.
        for rows in order.tensor_split(self.steps_an_epoch):
            [clean] = augment_views(
                [self._images[rows.to(self._device)].float() / 255],
                self._settings.augmentation,
                choices,
            )
            yield (
                clean,
                clean
                + self._sigma * torch.randn(clean.shape, generator=noise, device=self._device),
            )

    def _step(self, batch: tuple[Tensor, Tensor]) -> Terms:
        clean, noisy = batch
        classes, heads = self._heads(noisy)
        targets, learning = rejection_targets(self._classes(clean), classes, self._settings.head)
        loss = F.binary_cross_entropy_with_logits(heads.gather(1, learning[:, None])[:, 0], targets)
        self._descend(loss)
        return Terms({"error_share": targets.mean(), "total": loss}, weight=len(targets))

    @torch.no_grad()
    def _classes(self, clean: Tensor) -> Tensor:
        with autocast(self.precision, self._device):
            logits: Tensor = self._classifier(clean)[0]
        return logits.argmax(dim=1)

    def _heads(self, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """Return the classes of the denoised images, and the heads' logits as float32."""
        with autocast(self.precision, self._device):
            with torch.no_grad():
                denoised = self._denoiser(noisy.contiguous(memory_format=torch.channels_last))
                logits, maps = self._classifier(denoised)
            heads = self.rejector(denoised, maps)
        return logits.argmax(dim=1), heads.float()


def _share(flags: Tensor) -> float | None:
    return flags.float().mean().item() if len(flags) else None
