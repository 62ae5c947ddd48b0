"""Stage 2: train the denoiser in two phases, one epoch at a time."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from decrop.classifiers.classifier import Classifier
from decrop.config import TrialConfig
from decrop.data.augment import augment_views
from decrop.errors import RunError
from decrop.networks.discriminator import Discriminator, reverse_gradient
from decrop.seeds import seeded_globals, torch_generator
from decrop.synthesis.stage_one import StageOne
from decrop.training.initial import initial_denoiser
from decrop.training.losses import (
    LossTerms,
    cosine_similarity,
    domain_loss,
    label_consistency_loss,
    maximum_mean_discrepancy,
    total_loss,
)
from decrop.training.schedule import (
    build_optimizer,
    learning_rate,
    optimizer_kind,
    reversal_scale,
)


class TrainingDivergedError(RunError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class EpochRecord:
    """Means over the steps of an epoch, counted from 1 through both phases."""

    epoch: int
    phase: Literal[1, 2]
    learning_rate: float
    label_consistency: float
    cosine_similarity: float
    mmd: float
    discriminator: float | None
    total: float
    seconds: float


@dataclass(frozen=True)
class _Batch:
    clean: Tensor
    boundary: Tensor
    interpolated: Tensor
    boundary_used: Tensor
    noise: Tensor


class DenoiserTrainer:
    """Trains a denoiser on stage-1 samples; its state can be saved between epochs.

    Every epoch draws from random streams of its own, so a resumed training continues exactly as an
    uninterrupted one. The discriminator and the optimiser are fresh in the second phase.
    """

    def __init__(
        self,
        config: TrialConfig,
        classifier: Classifier,
        samples: StageOne,
        device: torch.device,
        initial_weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._sigma = config.sigma
        self._seed = config.seed
        self._settings = config.training
        self._device = device
        self._classifier = classifier.to(device)
        self._clean = samples.clean.to(device)
        self._boundary = samples.boundary.to(device)
        self._interpolated = samples.interpolated.to(device)
        keep_all = config.boundary.on_failure == "keep"
        self._boundary_used = (samples.flipped | keep_all).to(device)
        self._epochs_done = 0
        self._history: list[EpochRecord] = []
        self.denoiser = initial_denoiser(
            config.denoiser, image_channels=self._clean.shape[1], seed=self._seed, device=device
        )
        if initial_weights is not None:
            self.denoiser.load_state_dict(initial_weights)
        with seeded_globals(self._seed, "discriminator initialisation"):
            self._discriminator = Discriminator(
                features=self._classifier.feature_count,
                hidden_units=self._settings.discriminator.hidden_units,
            ).to(device)
        self._discriminator_optimizer = torch.optim.Adam(
            self._discriminator.parameters(), lr=self._settings.discriminator.learning_rate
        )
        self._optimizer = self._fresh_optimizer(0)

    @property
    def epochs_done(self) -> int:
        """Epochs trained so far, in both phases."""
        return self._epochs_done

    @property
    def history(self) -> list[EpochRecord]:
        """One record an epoch."""
        return list(self._history)

    def run_epoch(self) -> EpochRecord:
        """Train one more epoch.

        Raises:
            TrainingDivergedError: the loss became NaN or infinite.
        """
        started = time.monotonic()
        phase, epoch = self._phase_and_epoch(self._epochs_done)
        if self._needs_fresh_optimizer(epoch):
            self._optimizer = self._fresh_optimizer(epoch)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._settings, epoch)
        self.denoiser.train()
        batches = self._epoch_batches()
        sums = torch.zeros(5, device=self._device)
        for step, batch in enumerate(batches):
            progress = (epoch + step / len(batches)) / max(self._settings.discriminator_epochs, 1)
            scale = reversal_scale(self._settings, progress) if phase == 2 else None
            sums += self._step(batch, scale)
        self._epochs_done += 1
        label, cosine, mmd, domain, total = (sums / len(batches)).tolist()
        record = EpochRecord(
            epoch=self._epochs_done,
            phase=phase,
            learning_rate=learning_rate(self._settings, epoch),
            label_consistency=label,
            cosine_similarity=cosine,
            mmd=mmd,
            discriminator=domain if phase == 2 else None,
            total=total,
            seconds=time.monotonic() - started,
        )
        if not torch.isfinite(sums).all():
            raise TrainingDivergedError(
                f"the loss is {total} in epoch {self._epochs_done}; "
                "try a lower training.learning_rate or smaller training.loss_weights."
            )
        self._history.append(record)
        return record

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later process needs to go on; loads with `weights_only=True`."""
        return {
            "epochs_done": self._epochs_done,
            "denoiser": self.denoiser.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "discriminator": self._discriminator.state_dict(),
            "discriminator_optimizer": self._discriminator_optimizer.state_dict(),
            "history": [asdict(record) for record in self._history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        self._epochs_done = state["epochs_done"]
        self.denoiser.load_state_dict(state["denoiser"])
        self._discriminator.load_state_dict(state["discriminator"])
        self._discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])
        self._history = [EpochRecord(**record) for record in state["history"]]
        # The saved optimiser is that of the last finished epoch.
        _, epoch = self._phase_and_epoch(max(self._epochs_done - 1, 0))
        self._optimizer = self._fresh_optimizer(epoch)
        self._optimizer.load_state_dict(state["optimizer"])

    def _phase_and_epoch(self, epochs_done: int) -> tuple[Literal[1, 2], int]:
        if epochs_done < self._settings.epochs:
            return 1, epochs_done
        return 2, epochs_done - self._settings.epochs

    def _fresh_optimizer(self, epoch: int) -> torch.optim.Optimizer:
        kind = optimizer_kind(self._settings, epoch)
        return build_optimizer(self._settings, kind, self.denoiser.parameters())

    def _needs_fresh_optimizer(self, epoch: int) -> bool:
        return epoch == 0 or (
            optimizer_kind(self._settings, epoch) != optimizer_kind(self._settings, epoch - 1)
        )

    def _epoch_batches(self) -> list[_Batch]:
        draws = torch_generator(self._seed, "training", self._epochs_done)
        noise = torch_generator(
            self._seed, "training noise", self._epochs_done, device=self._device
        )
        count, images = self._interpolated.shape[:2]
        order = torch.randperm(images, generator=draws)
        batches = []
        # Equal parts: no step has a single image, which BatchNorm could not take.
        for rows in order.tensor_split(-(-images // self._settings.batch_size)):
            which = torch.randint(count, (len(rows),), generator=draws).to(self._device)
            rows = rows.to(self._device)
            clean, boundary, interpolated = augment_views(
                [self._clean[rows], self._boundary[rows], self._interpolated[which, rows]],
                self._settings.augmentation,
                draws,
            )
            batches.append(
                _Batch(
                    clean=clean,
                    boundary=boundary,
                    interpolated=interpolated,
                    boundary_used=self._boundary_used[rows],
                    noise=self._sigma
                    * torch.randn(clean.shape, generator=noise, device=self._device),
                )
            )
        return batches

    def _step(self, batch: _Batch, scale: float | None) -> Tensor:
        terms = self._terms(batch, scale)
        total = total_loss(terms, self._settings.loss_weights)
        self._optimizer.zero_grad()
        self._discriminator_optimizer.zero_grad()
        total.backward()
        self._optimizer.step()
        if terms.domain is not None:
            self._discriminator_optimizer.step()
        domain = total.new_zeros(()) if terms.domain is None else terms.domain
        parts = [terms.label_consistency, terms.cosine_similarity, terms.mmd, domain, total]
        return torch.stack(parts).detach()

    def _terms(self, batch: _Batch, scale: float | None) -> LossTerms:
        with torch.no_grad():
            clean_logits, clean_features = self._classifier.logits_and_features(batch.clean)
        # The clean view goes last: with DnCNN's momentum the running statistics are then its own,
        # as where the published code runs it once more for the discriminator.
        interpolated_logits, interpolated_features = self._denoised(
            batch.interpolated + batch.noise
        )
        cosine = cosine_similarity(interpolated_logits, clean_logits)
        mmd = maximum_mean_discrepancy(interpolated_features, clean_features)
        kept = batch.boundary_used
        if kept.any():
            # Left out before the denoiser, where BatchNorm would let them act on the others.
            boundary_logits, boundary_features = self._denoised(
                (batch.boundary + batch.noise)[kept]
            )
            cosine = cosine + cosine_similarity(boundary_logits, clean_logits[kept])
            mmd = mmd + maximum_mean_discrepancy(boundary_features, clean_features)
        logits, features = self._denoised(batch.clean + batch.noise)
        domain = None
        if scale is not None:
            joint = torch.cat([clean_features, reverse_gradient(features, scale)])
            clean_scores, denoised_scores = self._discriminator(joint).chunk(2)
            domain = domain_loss(clean_scores, denoised_scores)
        return LossTerms(
            label_consistency=label_consistency_loss(logits, clean_logits),
            cosine_similarity=cosine,
            mmd=mmd,
            domain=domain,
        )

    def _denoised(self, noisy: Tensor) -> tuple[Tensor, Tensor]:
        return self._classifier.logits_and_features(
            self.denoiser(noisy.contiguous(memory_format=torch.channels_last))
        )
