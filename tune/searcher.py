"""The searcher that Ray Tune asks for trials: trial 0, unfinished ones, Optuna's proposals."""

from collections.abc import Mapping, Sequence
from typing import Any

from ray.air.constants import TRAINING_ITERATION
from ray.tune.search import Searcher

from tune.finished_trials import FinishedTrial, finite
from tune.space import listed_trials, reference_parameters, total_trials
from tune.study import StudyTrial, SweepStudy
from tune.sweep_file import SweepConfig


class SweepSearcher(Searcher):
    """Hands out trial 0, then trials to take up again, then new ones, until the sweep has all.

    Each suggestion is `{"number": int, "parameters": {dotted path: value}, "reference": bool}`. A
    trial ends complete if its last result says `finished: True` and has a finite metric; pruned if
    it does not say so; failed on an error or a metric that is not finite.
    """

    def __init__(
        self,
        sweep: SweepConfig,
        *,
        metric: str,
        past: Sequence[FinishedTrial] = (),
        unfinished: Sequence[tuple[int, Mapping[str, Any]]] = (),
        time_attr: str = TRAINING_ITERATION,
    ) -> None:
        super().__init__(metric=metric, mode="max")
        self._sweep = sweep
        self._time_attr = time_attr
        self._running: dict[str, StudyTrial] = {}
        self.study = SweepStudy(sweep, past)
        known = {trial.number for trial in past} | {number for number, _ in unfinished}
        self._waiting = _waiting(sweep, {trial.number for trial in past}, unfinished)
        self._new = _new_trials(sweep, known | {0})

    def suggest(  # type: ignore[override]  # Ray declares no type for FINISHED.
        self, trial_id: str
    ) -> dict[str, Any] | str:
        """Return the next trial's number and parameters, or `Searcher.FINISHED`."""
        if self._waiting:
            number, given = self._waiting.pop(0)
        elif self._new:
            number, given = self._new.pop(0)
        else:
            return Searcher.FINISHED
        trial = self._running[trial_id] = self.study.ask(number, given)
        return {"number": number, "parameters": trial.parameters, "reference": number == 0}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell Optuna a held-out score of a running trial."""
        running = self._running.get(trial_id)
        if running is not None:
            self._report(running, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna how a trial ended; a second end of the same trial is ignored."""
        running = self._running.pop(trial_id, None)
        if running is None:
            return
        value = finite((result or {}).get(self.metric))
        if error or value is None:
            running.fail()
        elif result is not None and result.get("finished") is True:
            running.complete(value)
        else:
            # Tune does not pass on the result at which it stops a trial.
            self._report(running, result or {})
            running.prune()

    def save(self, checkpoint_path: str) -> None:
        """Write nothing, for a sweep resumes from its trials' folders."""

    def _report(self, running: StudyTrial, result: Mapping[str, Any]) -> None:
        value, step = finite(result.get(self.metric)), result.get(self._time_attr)
        if value is not None and step is not None:
            running.report(int(step), value)


def _waiting(
    sweep: SweepConfig, ended: set[int], unfinished: Sequence[tuple[int, Mapping[str, Any]]]
) -> list[tuple[int, Mapping[str, Any] | None]]:
    """Return trial 0, unless it has ended, and the unfinished trials by number."""
    again: list[tuple[int, Mapping[str, Any] | None]] = sorted(
        (trial for trial in unfinished if trial[0] != 0), key=lambda trial: trial[0]
    )
    return again if 0 in ended else [(0, reference_parameters(sweep)), *again]


def _new_trials(sweep: SweepConfig, known: set[int]) -> list[tuple[int, dict[str, Any] | None]]:
    """Return the numbers not taken; with what is listed for them, or None where Optuna chooses."""
    listed = listed_trials(sweep)
    if listed is not None:
        points = enumerate(listed, start=1)
        return [(number, point) for number, point in points if number not in known]
    total = total_trials(sweep)
    numbers = [number for number in range(total) if number not in known]
    return [(number, None) for number in numbers[: max(0, total - len(known))]]
