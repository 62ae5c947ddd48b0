"""What a search tells once its trials have ended: its history, and its Pareto fronts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tune.directory import SweepDirectory
from tune.finished_trials import FinishedTrial, finite
from tune.results.metric import Metric, pareto_front
from tune.results.ranking import held_out_results


@dataclass(frozen=True)
class SearchHistory:
    """Held-out scores by the first objective, by the trial's number.

    Attributes:
        complete: of complete trials, at least one.
        pruned: last ones, of trials that were pruned.
        label: what the score is.
    """

    complete: Mapping[int, float]
    pruned: Mapping[int, float]
    label: str


def search_history(past: Sequence[FinishedTrial], objective: Metric) -> SearchHistory | None:
    """Return the scores of trials that ended; None where none is complete."""
    scores = {trial.number: (trial.state, finite(trial.value)) for trial in past}
    complete = {n: v for n, (state, v) in scores.items() if state == "complete" and v is not None}
    pruned = {n: v for n, (state, v) in scores.items() if state == "pruned" and v is not None}
    if not complete:
        return None
    label = f"{objective.phrase[0].upper()}{objective.phrase[1:]}"
    return SearchHistory(complete, pruned, label)


@dataclass(frozen=True)
class Front:
    """Complete trials by two metrics.

    Attributes:
        over: metric of the first number.
        metric: of the second one.
        points: both numbers, by trial.
        trials: that no other one beats in all objectives.
    """

    over: Metric
    metric: Metric
    points: Mapping[int, tuple[float, float]]
    trials: Sequence[int]

    @property
    def labels(self) -> tuple[str, str]:
        """What the numbers are."""
        return f"{self.over.phrase}, held out", f"{self.metric.phrase}, held out"


def search_fronts(directory: SweepDirectory, objectives: Sequence[Metric]) -> list[Front]:
    """Return the first objective over each other one, and, if it is alone, over the size.

    Those are left out in which all trials are alike.
    """
    drawn = objectives if len(objectives) > 1 else [*objectives, Metric(kind="parameters")]
    outcomes = held_out_results(directory)
    values = {n: tuple(m.score(outcome) for m in drawn) for n, outcome in outcomes.items()}
    fronts = []
    for position, other in enumerate(drawn[1:], start=1):
        pairs = {number: (row[position], row[0]) for number, row in values.items()}
        if len(set(pairs.values())) > 1 and len({over for over, _ in pairs.values()}) > 1:
            fronts.append(Front(other, drawn[0], pairs, pareto_front(values, drawn)))
    return fronts
