"""Backends: where a certified function computes its classes, and how samples are taken there."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from decrop.config import ExecutionSettings
from decrop.networks.denoised import DenoisedClassifier
from decrop.smoothing.prepare import fitting_execution
from decrop.smoothing.probe import probe_chunks_per_batch
from decrop.smoothing.sampling import LocalSampler, MakeSampler, Sampler, SamplingTask


class Backend:
    """The configured device of this process, and of helpers that sample the same function.

    Attributes:
        costs: whether each answer may be paid for, so that none is asked for without need.
    """

    costs = False

    def fitting(
        self,
        execution: ExecutionSettings,
        network: nn.Module,
        image_shape: tuple[int, ...],
        *,
        trained_through: bool = False,
    ) -> ExecutionSettings:
        """Return the settings with the precision and layout that a network needs.

        Arguments and errors as of `fitting_execution`.
        """
        return fitting_execution(execution, network, image_shape, trained_through=trained_through)

    def chunks_per_batch(self, task: SamplingTask, device: torch.device) -> int:
        """Return how many chunks of a task make a good batch."""
        return probe_chunks_per_batch(task, device)

    def sampler(
        self, task: SamplingTask, device: torch.device, make_sampler: MakeSampler | None = None
    ) -> Sampler:
        """Return a sampler of a task.

        Args:
            make_sampler: of helpers, where they may take part; this process alone if None.
        """
        return LocalSampler(task, device) if make_sampler is None else make_sampler(task)

    def announce(
        self, samples: int, *, answered: int = 0, exact: bool, say: Callable[[str], None]
    ) -> None:
        """Say what is about to be asked, where answers cost, and check that it may be.

        Args:
            samples: that are taken at most.
            answered: of them that are known already.
            exact: whether all of them are taken in any case.
        """

    def spent(self) -> str | None:
        """Say what has been asked in all, where answers cost."""
        return None

    def spent_document(self) -> dict[str, Any]:
        """Return the same for JSON, {} where answers cost nothing."""
        return {}


_HERE = Backend()


def backend_of(network: nn.Module) -> Backend:
    """Return where a function computes its classes: where the classifier in it does."""
    if isinstance(network, DenoisedClassifier):
        network = network.classifier
    found = getattr(network, "backend", None)
    return found if isinstance(found, Backend) else _HERE
