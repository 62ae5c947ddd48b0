"""Prior: a denoiser pretrained on generated images, without any of the data (not in DE-CROP)."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from decrop.cache import ContentCache, Tensors
from decrop.config import DenoiserSettings, PriorSettings
from decrop.config.prior import PRIORS
from decrop.denoisers.sources import OpenedDenoiser
from decrop.networks.conditional import SigmaConditional
from decrop.networks.identity import network_identity
from decrop.seeds import numpy_generator, torch_generator
from decrop.smoothing.execution import Precision
from decrop.training.denoiser import initial_denoiser, sampled_sigma
from decrop.training.folder import TrainingFolder
from decrop.training.hooks import OnCount
from decrop.training.loop import Stateful, Terms, Trainer, train
from decrop.training.schedule import Schedule

# Changed when the computation changes, so that an old cache is not taken for a new one.
_VERSION = 1
PRIOR = "prior"
# Steps between looks at the loss: each look makes the host wait for the device.
_CHECK_EVERY = 25


@dataclass(frozen=True)
class Prior:
    """What a denoiser is pretrained with.

    Attributes:
        settings: kind, steps, batch size, peak learning rate and noise.
        sigma: standard deviation of the Gaussian noise where the settings give none, in [0,1]
            pixels.
        image_shape: channels, height and width of the images.
        precision: in which the denoiser computes; weights and loss are fp32.
        opened: the denoiser that it starts from, where that is trained already.
    """

    settings: PriorSettings
    denoiser: DenoiserSettings
    sigma: float
    image_shape: tuple[int, int, int]
    seed: int
    precision: Precision
    opened: OpenedDenoiser | None = None

    @property
    def noise(self) -> float | tuple[float, float]:
        """Standard deviation of the noise of pretraining, or the ends of its range."""
        return self.sigma if self.settings.sigma is None else self.settings.sigma

    def determined_by(self) -> dict[str, Any]:
        """Return everything that the weights depend on, as JSON."""
        opened = self.opened
        return {
            "start": None if opened is None else network_identity(opened.network),
            "version": _VERSION,
            "prior": self.settings.model_dump(exclude={"sigma"}),
            "denoiser": self.denoiser.model_dump(),
            "sigma": self.noise,
            "image_shape": self.image_shape,
            "seed": self.seed,
            "precision": self.precision,
        }


def prior_weights(
    prior: Prior, cache: ContentCache, device: torch.device, on_step: OnCount | None = None
) -> Tensors | None:
    """Return the weights of a denoiser pretrained on generated images, made now or in the cache.

    It starts from the trainer's own initialisation and minimises the mean squared error of the
    denoised images, by Adam with a one-cycle schedule. Neither images nor a classifier are used, so
    all trials with the same prior share one entry. A training that was cut off goes on from the
    state that it left in the cache. The result is None for kind `none`.

    Args:
        on_step: called now and then with steps done and in all; never if the cache has the weights.

    Raises:
        TrainingDivergedError: the loss became NaN or infinite.
    """
    if prior.settings.kind == "none":
        return None

    folder = TrainingFolder(cache.unfinished(PRIOR, prior.determined_by()))

    def weights() -> Tensors:
        trainer = PriorTrainer(prior, device)
        folder.load_progress(trainer)
        train(trainer, on_step=on_step, save=partial(folder.save_progress, trainer))
        return trainer.weights()

    found = cache.get(PRIOR, prior.determined_by(), weights)
    shutil.rmtree(folder.path, ignore_errors=True)
    return found


@dataclass(frozen=True)
class PriorEpoch:
    """Means over `_CHECK_EVERY` steps.

    Attributes:
        learning_rate: of its first step.
        squared_error: mean, of the denoised images.
    """

    epoch: int
    learning_rate: float
    squared_error: float
    seconds: float


@dataclass(frozen=True)
class _Streams:
    """Random streams whose states are saved."""

    images: np.random.Generator
    noise: torch.Generator
    sigmas: torch.Generator

    def state_dict(self) -> dict[str, Any]:
        return {
            "images": self.images.bit_generator.state,
            "noise": self.noise.get_state(),
            "sigmas": self.sigmas.get_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.images.bit_generator.state = state_dict["images"]
        self.noise.set_state(state_dict["noise"].cpu())
        self.sigmas.set_state(state_dict["sigmas"].cpu())


class PriorTrainer(Trainer[PriorEpoch, Tensor]):
    """Trains a denoiser on noisy generated images; an epoch is `_CHECK_EVERY` steps."""

    record_type = PriorEpoch
    remedy = "a lower prior.learning_rate"

    def __init__(self, prior: Prior, device: torch.device) -> None:
        """Begin a training; between epochs, one random stream goes through all of them."""
        self._prior = prior
        self._images = numpy_generator(prior.seed, "dead leaves")
        self._noise = torch_generator(prior.seed, "prior noise", device=device)
        self._sigmas = torch_generator(prior.seed, "prior sigma")
        schedule = Schedule(
            prior.settings.steps,
            _CHECK_EVERY,
            lambda _: (0, "adam"),
            lambda _: float(self._cycle.get_last_lr()[0]),
        )
        network = initial_denoiser(
            prior.denoiser,
            image_channels=prior.image_shape[0],
            sigma=prior.sigma,
            seed=prior.seed,
            device=device,
            opened=prior.opened,
        )
        super().__init__(network, schedule, precision=prior.precision, device=device)

    def _fresh_optimizer(self, epoch: int) -> torch.optim.Optimizer:
        optimizer = super()._fresh_optimizer(epoch)
        # Cycles the momentum of Adam too.
        self._cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self._prior.settings.learning_rate, total_steps=self.steps
        )
        return optimizer

    def _parts(self) -> dict[str, Stateful]:
        return {
            **super()._parts(),
            "cycle": self._cycle,
            "random": _Streams(self._images, self._noise, self._sigmas),
        }

    def _batches(self, epoch: int) -> Iterator[Tensor]:
        settings = self._prior.settings
        shape = settings.batch_size, *self._prior.image_shape
        for _ in range(self.steps_an_epoch):
            yield PRIORS.build(settings.kind, shape, self._images, self._device)

    def _step(self, batch: Tensor) -> Terms:
        sigma = sampled_sigma(self._prior.noise, len(batch), self._sigmas).to(self._device)
        noise = torch.randn(batch.shape, generator=self._noise, device=self._device)
        told = (sigma,) if isinstance(self.network, SigmaConditional) else ()
        noisy = batch + sigma[:, None, None, None] * noise
        denoised = self._forward(self.network, noisy, *told)
        loss = F.mse_loss(denoised, batch)
        self._descend(loss)
        self._cycle.step()
        return Terms({"total": loss})

    def _record(self, epoch: int, means: Mapping[str, float], **timing: float) -> PriorEpoch:
        return PriorEpoch(epoch=epoch, squared_error=means["total"], **timing)

    def _place(self) -> str:
        return f"step {self.steps_done} of the prior"


def no_images(shape: Sequence[int], *_: Any) -> Tensor:
    """Raise an error: kind `none` pretrains on nothing."""
    raise ValueError(f"prior.kind none has no images to pretrain on, but {shape[0]} are asked for")
