"""Hooks of a run: progress, messages, the stop signal, and the maker of samplers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

from decrop.smoothing.collect import CertificationProgress, OnProgress
from decrop.smoothing.sampling import MakeSampler

OnCount = Callable[[int, int], None]


class TrialStoppedError(Exception):
    """A trial was asked to stop; what it had done by then is in its folder."""


def _ignore(*_: object) -> None: ...


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Hooks:
    """What a run calls as it goes on, from its inputs to its certificates.

    Attributes:
        on_progress: called with the name and unit of a stage, such as "training, epochs", what is
            done of it, and how much there is.
        on_certified: called with the progress of the last certification.
        certifying: gives what is called with the progress of one of several, by its name;
            `on_certified` if None.
        say: called with sentences about what is going to be done.
        should_stop: asked after each epoch, when the state is saved before the run stops, and after
            each group of samples of the last certification, which are in its journal.
        times_images: whether the certified function is timed on held-out images too, not only on
            test images.
        make_sampler: makes the samplers of networks that are computed here; those of this process
            if None.
    """

    on_progress: Callable[[str, int, int], None] = _ignore
    on_certified: OnProgress = _ignore
    certifying: Callable[[str], OnProgress] | None = None
    say: Callable[[str], None] = _ignore
    should_stop: Callable[[], bool] = _never
    times_images: bool = False
    make_sampler: MakeSampler | None = None

    def stage(self, name: str) -> OnCount:
        """Return what is called with what is done of a stage, and how much there is."""
        return partial(self.on_progress, name)

    def certified(self, progress: CertificationProgress) -> None:
        """Tell the progress of a certification.

        Raises:
            TrialStoppedError: the run is to stop.
        """
        self.on_certified(progress)
        if self.should_stop():
            raise TrialStoppedError

    def of(self, name: str) -> Self:
        """Return the hooks of one of several certifications, such as "at σ = 0.5"."""
        return (
            self if self.certifying is None else replace(self, on_certified=self.certifying(name))
        )

    def silent(self) -> Self:
        """Return the hooks of a certification that nobody watches and that ends soon."""
        return type(self)(make_sampler=self.make_sampler)


NO_HOOKS = Hooks()
