"""The training loop, and the base of all that it trains: denoiser, prior, classifier, rejector."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from decrop.errors import RunError
from decrop.smoothing.execution import Precision, autocast, reproducible_kernels
from decrop.training.hooks import OnCount
from decrop.training.schedule import Schedule, build_optimizer

# A training that is cut off loses no more work than this, or a step or epoch.
SAVE_EVERY_SECONDS = 10.0


class TrainingDivergedError(RunError):
    """The loss is no longer a finite number."""


class Record(Protocol):
    """A dataclass that tells of an epoch."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class Stateful(Protocol):
    """A network, an optimiser, or a schedule."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later process needs to go on."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Go on from a state that `state_dict` returned."""
        ...


AnyRecord = TypeVar("AnyRecord", bound=Record)
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Terms:
    """Losses and other measurements of a step, whose means an epoch's record has.

    Attributes:
        values: scalars by name; `total` is the loss.
        weight: of the step in the means, such as its number of images.
    """

    values: Mapping[str, Tensor]
    weight: int = 1


class Trainer(ABC, Generic[AnyRecord, Batch]):
    """Trains a network step by step; its state can be saved between any two steps.

    Every epoch samples from random streams of its own, so a resumed training continues exactly as
    an uninterrupted one; on a GPU as far as PyTorch has deterministic kernels for its networks.
    """

    record_type: type[AnyRecord]
    # For the error that the loss is no finite number.
    loss_name: ClassVar[str] = "the loss"
    remedy: ClassVar[str]

    def __init__(
        self, network: nn.Module, schedule: Schedule, *, precision: Precision, device: torch.device
    ) -> None:
        """Begin a training.

        Args:
            precision: in which networks compute; weights and losses are fp32.
        """
        self.network = network
        self._schedule = schedule
        self.precision = precision
        self._device = device
        self._steps_done = 0
        self._history: list[AnyRecord] = []
        self._sums: dict[str, Tensor] = {}
        self._weight = 0
        self._seconds = 0.0
        self._ahead: Iterator[Batch] | None = None
        self._optimizer = self._fresh_optimizer(0)

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self._schedule.steps

    @property
    def steps_done(self) -> int:
        """Steps trained so far."""
        return self._steps_done

    @property
    def epochs_done(self) -> int:
        """Epochs that are trained to their end."""
        return self._steps_done // self.steps_an_epoch

    @property
    def steps_an_epoch(self) -> int:
        """Steps of each epoch."""
        return self._schedule.steps_an_epoch

    @property
    def history(self) -> list[AnyRecord]:
        """One record an epoch."""
        return list(self._history)

    def weights(self) -> dict[str, Tensor]:
        """Return the network's weights so far, on its device."""
        return {name: tensor.detach() for name, tensor in self.network.state_dict().items()}

    def advance(self) -> None:
        """Train as much as is done between two saves: an epoch, where it is short."""
        self.run_epoch()

    def run_epoch(self) -> AnyRecord:
        """Train to the end of the epoch and return its record (see `step` for errors)."""
        epochs = len(self._history)
        while len(self._history) == epochs:
            self.step()
        return self._history[-1]

    def step(self) -> None:
        """Take one more step.

        Raises:
            TrainingDivergedError: the loss became NaN or infinite in the epoch that ends.
        """
        started = time.monotonic()
        epoch, position = divmod(self._steps_done, self.steps_an_epoch)
        if self._ahead is None:
            self._ahead = islice(self._batches(epoch), position, None)
            if position == 0 and self._schedule.begins_anew(epoch):
                self._optimizer = self._fresh_optimizer(epoch)
        rate = self._schedule.learning_rate(self._steps_done)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        with reproducible_kernels():
            terms = self._step(next(self._ahead))
        for name, value in terms.values.items():
            self._sums[name] = self._sums.get(name, 0) + terms.weight * value.detach().double()
        self._weight += terms.weight
        self._steps_done += 1
        if position + 1 == self.steps_an_epoch or self._steps_done == self.steps:
            self._end_epoch(epoch, started)
        else:
            self._seconds += time.monotonic() - started

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later process needs to go on; loads with `weights_only=True`."""
        return {
            "steps_done": self._steps_done,
            "sums": dict(self._sums),
            "weight": self._weight,
            "seconds": self._seconds,
            "history": [asdict(record) for record in self._history],
            **{name: part.state_dict() for name, part in self._parts().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        self._steps_done = state["steps_done"]
        self._sums = {name: value.to(self._device) for name, value in state["sums"].items()}
        self._weight, self._seconds = state["weight"], state["seconds"]
        self._history = [self.record_type(**record) for record in state["history"]]
        self._ahead = None
        # The saved optimiser is that of the last step.
        last = max(self._steps_done - 1, 0)
        self._optimizer = self._fresh_optimizer(last // self.steps_an_epoch)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    @abstractmethod
    def _batches(self, epoch: int) -> Iterable[Batch]:
        """Make the batches of an epoch, counted from 0, in order."""

    @abstractmethod
    def _step(self, batch: Batch) -> Terms:
        """Take one step (see `_descend`) in train mode."""

    @abstractmethod
    def _record(self, epoch: int, means: Mapping[str, float], **timing: float) -> AnyRecord:
        """Make the record of an epoch, counted from 1; `timing` is learning_rate and seconds."""

    def _parts(self) -> dict[str, Stateful]:
        """Return what the state consists of, apart from counts and history."""
        return {"network": self.network, "optimizer": self._optimizer}

    def _place(self) -> str:
        return f"epoch {self.epochs_done}"

    def _forward(self, network: Callable[..., Tensor], images: Tensor, *others: Tensor) -> Tensor:
        """Run a network on images, and `others`, in the training's precision and return fp32."""
        with autocast(self.precision, self._device):
            found = network(images.contiguous(memory_format=torch.channels_last), *others)
        return found.float()

    def _descend(self, loss: Tensor, *others: torch.optim.Optimizer) -> None:
        """Move the weights, and those of `others`, against the gradient of the loss."""
        optimizers = (self._optimizer, *others)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        if self._schedule.gradient_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), self._schedule.gradient_norm)
        for optimizer in optimizers:
            optimizer.step()

    def _fresh_optimizer(self, epoch: int) -> torch.optim.Optimizer:
        return build_optimizer(self._schedule, epoch, self.network.parameters())

    def _end_epoch(self, epoch: int, started: float) -> None:
        values = torch.stack(list(self._sums.values())) / self._weight
        means = dict(zip(self._sums, values.tolist(), strict=True))
        if not all(math.isfinite(mean) for mean in means.values()):
            raise TrainingDivergedError(
                f"{self.loss_name} is {means['total']} in {self._place()}; try {self.remedy}."
            )
        record = self._record(
            epoch + 1,
            means,
            learning_rate=self._schedule.learning_rate(epoch * self.steps_an_epoch),
            seconds=self._seconds + time.monotonic() - started,
        )
        self._history.append(record)
        self._sums, self._weight, self._seconds, self._ahead = {}, 0, 0.0, None


AnyTrainer = Trainer[Any, Any]


def train(
    trainer: AnyTrainer,
    *,
    epochs: int | None = None,
    save: Callable[[], None] | None = None,
    on_step: OnCount | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> bool:
    """Train until so many epochs are done, and leave the network in eval mode.

    Args:
        epochs: that are done in the end; all that are planned by default.
        save: called every `SAVE_EVERY_SECONDS` or so, before it stops, and at the end.
        on_step: called after each step or epoch with steps done and in all.
        should_stop: asked after each step or epoch.

    Returns:
        whether it was trained so far; False where it was to stop.

    Raises:
        TrainingDivergedError: the loss became NaN or infinite.
    """
    steps = trainer.steps
    if epochs is not None:
        steps = min(steps, epochs * trainer.steps_an_epoch)
    saved, stopping = time.monotonic(), False
    while trainer.steps_done < steps and not stopping:
        trainer.advance()
        if on_step is not None:
            on_step(trainer.steps_done, trainer.steps)
        stopping = should_stop is not None and should_stop()
        over = stopping or trainer.steps_done >= steps
        if save is not None and not over and time.monotonic() - saved > SAVE_EVERY_SECONDS:
            save()
            saved = time.monotonic()
    if save is not None:
        save()
    trainer.network.eval()
    return not stopping
