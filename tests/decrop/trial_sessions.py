"""Trials of a test: run, cut off, gone on with, and what they sample."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from decrop.cache import ContentCache
from decrop.config import TrialConfig
from decrop.data.limited import LabelledImages
from decrop.evaluation.table import CertificateTable
from decrop.smoothing.sampling import CountRequest, LocalSampler, SamplingTask
from decrop.training.hooks import Hooks
from decrop.trial.folder import Report, TrialFolder
from decrop.trial.inputs import TrialInputs
from decrop.trial.run import run_trial
from tests.decrop.digits_trial import (
    CPU,
    FIXED,
    short_trial,
)

PROCEDURES = ["certification.procedure=adaptive", FIXED]


class CutOffError(Exception):
    """The process ends here."""


class Unreadable:
    """Data that a trial must not touch."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was read")

    def __len__(self) -> int:
        raise AssertionError("the length was read")


class Session:
    """Trials as several processes would run them, with a count of the work in all of them."""

    def __init__(self, inputs: TrialInputs, cache: ContentCache) -> None:
        self.inputs = inputs
        self.cache = cache
        self.epochs_trained: list[int] = []
        self.samplers: list[CountingSampler] = []
        self.cut_at: tuple[int, int] | None = None

    @property
    def samples(self) -> list[int]:
        """What each sampler has sampled; each certification makes one."""
        return [sampler.samples for sampler in self.samplers]

    def run(
        self,
        folder: TrialFolder,
        config: TrialConfig | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Iterator[Report]:
        return run_trial(
            config or short_trial(),
            self.inputs,
            folder,
            self.cache,
            split="held_out",
            hooks=self.hooks(should_stop),
        )

    def hooks(self, should_stop: Callable[[], bool] | None = None) -> Hooks:
        return Hooks(
            on_progress=lambda stage, done, total: self.epochs_trained.append(done),
            should_stop=should_stop or (lambda: False),
            make_sampler=self.make_sampler,
        )

    def make_sampler(self, task: SamplingTask) -> "CountingSampler":
        """Count what is sampled, and end at a call of a sampler if asked to, both from 1."""
        number, call = self.cut_at or (0, 0)
        cut = call if number == len(self.samplers) + 1 else None
        self.samplers.append(CountingSampler(task, cut))
        return self.samplers[-1]


class CountingSampler:
    def __init__(self, task: SamplingTask, cut_at_call: int | None) -> None:
        self.chunks_per_batch = task.chunks_per_batch
        self.samples = 0
        self.calls = 0
        self._sampler = LocalSampler(task, CPU)
        self._cut_at_call = cut_at_call

    def class_counts(self, requests: Sequence[CountRequest]) -> NDArray[np.int64]:
        self.calls += 1
        if self.calls == self._cut_at_call:
            raise CutOffError
        self.samples += sum(request.samples for request in requests)
        return self._sampler.class_counts(requests)


def samples_of(folder: TrialFolder) -> int:
    samples = CertificateTable.read_tsv(folder.certificates_path).samples
    assert samples is not None
    return int(samples.sum())


def pixels(images: LabelledImages) -> torch.Tensor:
    return images.images.float() / 255
