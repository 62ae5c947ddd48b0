"""A training of a classifier that Ctrl-C ends."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from decrop.training import loop
from decrop.training.classifier import ClassifierTrainer


@contextmanager
def interrupted_once(
    monkeypatch: pytest.MonkeyPatch, when: Callable[[ClassifierTrainer], bool]
) -> Iterator[None]:
    """Interrupt trainings before the step for which `when` holds; they save after each step."""
    step = ClassifierTrainer.step

    def interrupted(trainer: ClassifierTrainer) -> None:
        if when(trainer):
            raise KeyboardInterrupt
        step(trainer)

    with monkeypatch.context() as patched:
        patched.setattr(ClassifierTrainer, "step", interrupted)
        patched.setattr(loop, "SAVE_EVERY_SECONDS", -1.0)
        yield
