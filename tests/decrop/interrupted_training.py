"""A training of a classifier that Ctrl-C ends."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import decrop.trial.classifier_run
from decrop.training.classifier import ClassifierTrainer


@contextmanager
def interrupted_once(
    monkeypatch: pytest.MonkeyPatch, when: Callable[[ClassifierTrainer], bool]
) -> Iterator[None]:
    """Interrupt trainings before the step for which `when` holds; they save after each step."""
    step, train_to_end = ClassifierTrainer.step, decrop.trial.classifier_run.train_to_end

    def interrupted(trainer: ClassifierTrainer) -> None:
        if when(trainer):
            raise KeyboardInterrupt
        step(trainer)

    with monkeypatch.context() as patched:
        patched.setattr(ClassifierTrainer, "step", interrupted)
        patched.setattr(
            decrop.trial.classifier_run,
            "train_to_end",
            lambda *given, **named: train_to_end(*given, **named, save_every_seconds=-1.0),
        )
        yield
