"""The leaderboard's data: what a sweep found on held-out images, and certifies of it on test."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from decrop.evaluation.table import Shares
from tune.results.metric import Metric, metric_named
from tune.results.paired import Comparisons
from tune.results.ranking import REFERENCE


@dataclass(frozen=True)
class HeldOut:
    """A finished trial by its held-out score.

    Attributes:
        score: by which they are ranked.
        average_certified_radius: on held-out images.
        certified_accuracy: on held-out images, by radius.
        certified: whether it is also certified on the test split.
        name: of the trial's row, where the sweep is a table, or of a trial without a denoiser.
        measured_otherwise: settings in which its score differs from trial 0's; empty if in none.
        objectives: values by name, where the sweep has several.
        on_front: whether no other trial beats it in all of them (the Pareto front).
    """

    number: int
    rank: int
    score: float
    average_certified_radius: float
    certified_accuracy: dict[str, float]
    certified: bool
    name: str | None = None
    measured_otherwise: str = ""
    objectives: dict[str, float] = field(default_factory=dict)
    on_front: bool = False


@dataclass(frozen=True)
class Entry:
    """A denoiser, or a classifier without one, on the test split.

    Attributes:
        number: of the trial; None for the undefended classifier.
        rank: by held-out score among complete trials; None for the undefended classifier.
        held_out_score: by which trials are ranked.
        result: on the test split.
        shares: of test images certified correct, misclassified, and neither.
        intervals: exact 95 % intervals of the certified accuracies, by radius.
        against_reference: compared with trial 0, by radius.
        against_undefended: compared with no denoiser, by radius.
        name: of the trial's row, where the sweep is a table.
        trains_classifier: whether the trial trains its classifier and has no denoiser.
        measured_otherwise: settings in which certificates differ from trial 0's; empty if in none.
    """

    number: int | None
    rank: int | None
    held_out_score: float | None
    result: dict[str, Any]
    shares: Shares
    intervals: dict[str, tuple[float, float]]
    against_reference: Comparisons | None
    against_undefended: Comparisons | None
    name: str | None = None
    trains_classifier: bool = False
    measured_otherwise: str = ""


@dataclass(frozen=True)
class Spread:
    """A value of several trainings: by seed, their mean, and their standard deviation, if any."""

    values: tuple[float, ...]
    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Summarise values."""
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return cls(tuple(values), float(np.mean(values)), deviation)


@dataclass(frozen=True)
class SettingsEntry:
    """The settings of a trial, trained on the whole limited data from several seeds.

    Attributes:
        seeds: of the trainings that are certified on the test split.
        certified_accuracy: on test images, by radius.
        average_certified_radius: on test images.
        clean_accuracy: on test images without noise.
        against_reference: compared with the settings of trial 0 over the seeds of both, by radius.
        against_undefended: compared with no denoiser, by radius.
        name: of the trial's row, where the sweep is a table.
    """

    number: int
    seeds: tuple[int, ...]
    certified_accuracy: dict[str, Spread]
    average_certified_radius: Spread
    clean_accuracy: Spread
    against_reference: Comparisons | None
    against_undefended: Comparisons | None
    name: str | None = None


@dataclass(frozen=True)
class Leaderboard:
    """The outcome of a sweep.

    Attributes:
        radii: at which certified accuracy is reported.
        by: name of the held-out metric that decides on ranks.
        held_out: all finished trials by rank.
        entries: the certified ones by rank.
        undefended: the classifier without a denoiser; None where the reference trains its own.
        summary: sentences that compare the best with trial 0 and with no denoiser.
        settings: of the same trials over several seeds; empty where there is one.
        agreement: where held-out scores are through a surrogate and test certificates are a black
            box's own, the share of held-out images on which both agree; else None.
    """

    radii: tuple[float, ...]
    by: str
    held_out: list[HeldOut]
    entries: list[Entry]
    undefended: Entry | None
    summary: str
    settings: list[SettingsEntry] = field(default_factory=list)
    agreement: float | None = None

    @property
    def metric(self) -> Metric:
        """The held-out metric that decides on ranks."""
        return metric_named(self.by, self.radii, source="by")

    @property
    def best(self) -> Entry:
        """Rank 1 by held-out score among the certified, whatever the test split shows."""
        return self.entries[0]

    @property
    def reference(self) -> Entry | None:
        """Trial 0, the reference; None if it failed."""
        return next((entry for entry in self.entries if entry.number == REFERENCE), None)
