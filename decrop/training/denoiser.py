"""Stage 2: train the denoiser phase by phase, one epoch at a time."""

import math
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from decrop.classifiers.classifier import Classifier
from decrop.config import TrialConfig
from decrop.config.training import OBJECTIVES
from decrop.data.augmentation import augment_views, augments
from decrop.errors import RunError
from decrop.networks.discriminator import Discriminator
from decrop.seeds import seeded_globals, torch_generator
from decrop.smoothing.execution import autocast, resolve_precision
from decrop.synthesis.synthetic_samples import SyntheticSamples
from decrop.training.initial import initial_denoiser
from decrop.training.losses import LossTerms, total_loss
from decrop.training.objectives import Batch, Networks
from decrop.training.schedule import (
    build_optimizer,
    learning_rates,
    optimizer_kind,
    reversal_scale,
)

Phase = Literal[0, 1, 2]


class TrainingDivergedError(RunError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class EpochRecord:
    """Means over the steps of an epoch, counted from 1 through all phases.

    A term is None where the phase's objective does not have it.
    """

    epoch: int
    phase: Phase
    learning_rate: float
    label_consistency: float | None
    cosine_similarity: float | None
    mmd: float | None
    discriminator: float | None
    squared_error: float | None
    total: float
    seconds: float


class DenoiserTrainer:
    """Trains a denoiser on stage-1 samples; its state can be saved between epochs.

    Every epoch draws from random streams of its own, so a resumed training continues exactly as an
    uninterrupted one. The discriminator is fresh in its phase, the optimiser in every phase.
    """

    def __init__(
        self,
        config: TrialConfig,
        classifier: Classifier,
        samples: SyntheticSamples,
        device: torch.device,
        initial_weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._sigma = config.sigma
        self._seed = config.seed
        self._settings = config.training
        self._device = device
        self._precision = resolve_precision(config.execution.training_precision, device)
        self._classifier = classifier.to(device)
        self._clean = samples.clean.to(device)
        self._boundary = samples.boundary.to(device)
        self._interpolated = samples.interpolated.to(device)
        keep_all = config.boundary.on_failure == "keep"
        self._boundary_used = (samples.flipped | keep_all).to(device)
        # Without augmentation the classifier sees the same clean images in every epoch.
        self._clean_outputs = None
        if not augments(self._settings.augmentation):
            with torch.no_grad():
                self._clean_outputs = self._classify(self._clean)
        self._epochs_done = 0
        self._history: list[EpochRecord] = []
        self._trained = initial_denoiser(
            config.denoiser, image_channels=self._clean.shape[1], seed=self._seed, device=device
        )
        if initial_weights is not None:
            self._trained.load_state_dict(initial_weights)
        self._average = None
        if self._settings.averaging_decay:
            averaging = get_ema_multi_avg_fn(self._settings.averaging_decay)
            self._average = AveragedModel(self._trained, multi_avg_fn=averaging, use_buffers=True)
        with seeded_globals(self._seed, "discriminator initialisation"):
            self._discriminator = Discriminator(
                features=self._classifier.feature_count(self._clean[:1]),
                hidden_units=self._settings.discriminator.hidden_units,
            ).to(device)
        self._discriminator_optimizer = torch.optim.Adam(
            self._discriminator.parameters(), lr=self._settings.discriminator.learning_rate
        )
        self._optimizer = self._fresh_optimizer(0)

    @property
    def denoiser(self) -> nn.Module:
        """The denoiser as trained so far: the last weights, or their moving average."""
        return self._trained if self._average is None else self._average.module

    @property
    def epochs_done(self) -> int:
        """Epochs trained so far, in all phases."""
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
        self._trained.train()
        batches = self._epoch_batches(phase)
        phase_epochs = self._settings.phase_epochs[phase]
        rates = learning_rates(self._settings, epoch, phase_epochs=phase_epochs, steps=len(batches))
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self._device))
        for step, (batch, rate) in enumerate(zip(batches, rates, strict=True)):
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            progress = (epoch + step / len(batches)) / phase_epochs
            for name, value in self._step(batch, phase, progress).items():
                sums[name] += value
        self._epochs_done += 1
        means = {name: value.item() / len(batches) for name, value in sums.items()}
        record = EpochRecord(
            epoch=self._epochs_done,
            phase=phase,
            learning_rate=rates[0],
            label_consistency=means.get("label_consistency"),
            cosine_similarity=means.get("cosine_similarity"),
            mmd=means.get("mmd"),
            discriminator=means.get("domain"),
            squared_error=means.get("squared_error"),
            total=means["total"],
            seconds=time.monotonic() - started,
        )
        if not all(math.isfinite(mean) for mean in means.values()):
            raise TrainingDivergedError(
                f"the loss is {record.total} in epoch {self._epochs_done}; "
                "try a lower training.learning_rate or smaller training.loss_weights."
            )
        self._history.append(record)
        return record

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later process needs to go on; loads with `weights_only=True`."""
        return {
            "epochs_done": self._epochs_done,
            "denoiser": self._trained.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "discriminator": self._discriminator.state_dict(),
            "discriminator_optimizer": self._discriminator_optimizer.state_dict(),
            "history": [asdict(record) for record in self._history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        self._epochs_done = state["epochs_done"]
        self._trained.load_state_dict(state["denoiser"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._discriminator.load_state_dict(state["discriminator"])
        self._discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])
        self._history = [EpochRecord(**record) for record in state["history"]]
        # The saved optimiser is that of the last finished epoch.
        _, epoch = self._phase_and_epoch(max(self._epochs_done - 1, 0))
        self._optimizer = self._fresh_optimizer(epoch)
        self._optimizer.load_state_dict(state["optimizer"])

    def _phase_and_epoch(self, epochs_done: int) -> tuple[Phase, int]:
        squared_error, objective, _ = self._settings.phase_epochs
        if epochs_done < squared_error:
            return 0, epochs_done
        if epochs_done < squared_error + objective:
            return 1, epochs_done - squared_error
        return 2, epochs_done - squared_error - objective

    def _fresh_optimizer(self, epoch: int) -> torch.optim.Optimizer:
        kind = optimizer_kind(self._settings, epoch)
        return build_optimizer(self._settings, kind, self._trained.parameters())

    def _needs_fresh_optimizer(self, epoch: int) -> bool:
        return epoch == 0 or (
            optimizer_kind(self._settings, epoch) != optimizer_kind(self._settings, epoch - 1)
        )

    def _epoch_batches(self, phase: Phase) -> list[Batch]:
        draws = torch_generator(self._seed, "training", self._epochs_done)
        noise = torch_generator(
            self._seed, "training noise", self._epochs_done, device=self._device
        )
        count, images = self._interpolated.shape[:2]
        order = torch.randperm(images, generator=draws)
        generated = self._settings.generated_samples if self._objective(phase) == "decrop" else ""
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
                Batch(
                    clean=clean,
                    boundary=boundary if "boundary" in generated else None,
                    interpolated=interpolated if "interpolated" in generated else None,
                    boundary_used=self._boundary_used[rows],
                    clean_outputs=self._clean_outputs_of(rows),
                    noise=self._sigma
                    * torch.randn(clean.shape, generator=noise, device=self._device),
                )
            )
        return batches

    def _clean_outputs_of(self, rows: Tensor) -> tuple[Tensor, Tensor] | None:
        if self._clean_outputs is None:
            return None
        logits, features = self._clean_outputs
        return logits[rows], features[rows]

    def _objective(self, phase: Phase) -> str:
        return "mse" if phase == 0 else self._settings.objective

    def _step(self, batch: Batch, phase: Phase, progress: float) -> dict[str, Tensor]:
        """Take one step and return the terms of its loss and their total."""
        scale = reversal_scale(self._settings, progress) if phase == 2 else None
        networks = Networks(self._denoise, self._classify, self._discriminator)
        terms: LossTerms = OBJECTIVES.build(self._objective(phase), batch, networks, scale)
        total = total_loss(terms, self._settings.loss_weights)
        if self._settings.l1_penalty:
            norm = sum(weight.abs().sum() for weight in self._trained.parameters())
            total = total + self._settings.l1_penalty * norm
        self._optimizer.zero_grad()
        self._discriminator_optimizer.zero_grad()
        total.backward()
        self._optimizer.step()
        if terms.domain is not None:
            self._discriminator_optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self._trained)
        found = {field.name: getattr(terms, field.name) for field in fields(LossTerms)}
        return {
            name: value.detach()
            for name, value in {**found, "total": total}.items()
            if value is not None
        }

    def _denoise(self, noisy: Tensor) -> Tensor:
        with autocast(self._precision, self._device):
            denoised: Tensor = self._trained(noisy.contiguous(memory_format=torch.channels_last))
        return denoised.float()

    def _classify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(self._precision, self._device):
            logits, features = self._classifier.logits_and_features(images)
        return logits.float(), features.float()
