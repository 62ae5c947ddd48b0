"""The searcher that Ray Tune asks for trials: trial 0, unfinished ones, Optuna's proposals."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from ray.air.constants import TRAINING_ITERATION
from ray.tune.search import Searcher

from tune.finished_trials import FinishedTrial, finite
from tune.space import listed_trials, reference_parameters, total_trials
from tune.study import KnownTrials, propose
from tune.sweep_file import SweepConfig


class SweepSearcher(Searcher):
    """Hands out trial 0, then trials to take up again, then new ones, until the sweep has all.

    Each suggestion is `{"number": int, "parameters": {dotted path: value}, "reference": bool}`. A
    trial ends complete if its last result says `finished: True` and has a finite metric; pruned if
    it does not say so; failed on an error or a metric that is not finite.

    Where the sweep has a `lag`, trial n is proposed from the ends of trials 0 to n - lag and from
    nothing else, and is waited for until these have ended, so that no proposal depends on timing.

    Attributes:
        finished: trials that ended, by number.
    """

    def __init__(
        self,
        sweep: SweepConfig,
        *,
        metric: str,
        past: Sequence[FinishedTrial] = (),
        unfinished: Sequence[tuple[int, Mapping[str, Any]]] = (),
        time_attr: str = TRAINING_ITERATION,
        others: Callable[[int], tuple[float, ...]] = lambda _: (),
        learnt: Sequence[FinishedTrial] = (),
        at_once: Callable[[], int] | None = None,
    ) -> None:
        """Take up a sweep.

        Args:
            metric: name in results of the first objective's value.
            unfinished: numbers and parameters of those that began and did not end.
            time_attr: name in results of the evaluation, counted from 1.
            others: returns the values of a complete trial by all objectives but the first.
            learnt: trials of earlier sweeps, with numbers below 0.
            at_once: returns how many trials may be under way; without it, any number.
        """
        super().__init__(metric=metric, mode="max")
        self._others = others
        self._learnt = tuple(learnt)
        self._at_once = at_once
        self._sweep = sweep
        self._known = KnownTrials(sweep)
        self._time_attr = time_attr
        self.finished = {trial.number: trial for trial in past}
        # Of trials that have begun and not ended: parameters by number, and number and scores by
        # Ray Tune's name.
        self._unfinished = {number: dict(parameters) for number, parameters in unfinished}
        self._running: dict[str, tuple[int, dict[int, float]]] = {}
        self._waiting = _waiting(sweep, set(self.finished), unfinished)
        self._new = _new_trials(sweep, {*self.finished, *self._unfinished, 0})

    def suggest(  # type: ignore[override]  # Ray declares no type for FINISHED.
        self, trial_id: str
    ) -> dict[str, Any] | str | None:
        """Return the next trial's number and parameters, or `Searcher.FINISHED`.

        None where as many are under way as may be, or the trials that the next one is proposed from
        have not ended yet.
        """
        if self._at_once is not None and len(self._running) >= self._at_once():
            # A trial that is proposed before there is room for it has learnt less than it could.
            return None
        if self._waiting:
            number, parameters = self._waiting.pop(0)
        elif not self._new:
            return Searcher.FINISHED
        elif not self._all_ended_for(self._new[0][0]):
            return None
        else:
            number, given = self._new.pop(0)
            parameters = self._propose(number) if given is None else given
        self._unfinished[number] = dict(parameters)
        self._running[trial_id] = number, {}
        return {"number": number, "parameters": dict(parameters), "reference": number == 0}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note a held-out score of a running trial; one that comes twice is ignored."""
        value, step = finite(result.get(self.metric)), result.get(self._time_attr)
        if trial_id in self._running and value is not None and step is not None:
            # A trial that Tune retries, and the last result of every trial, come twice.
            self._running[trial_id][1].setdefault(int(step), value)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Note how a trial ended; a second end of the same trial is ignored."""
        if trial_id not in self._running:
            return
        value = finite((result or {}).get(self.metric))
        state: Literal["complete", "pruned", "failed"] = "failed"
        if not error and value is not None and result is not None:
            state = "complete" if result.get("finished") is True else "pruned"
        if state == "pruned":
            # Tune does not pass on the result at which it stops a trial.
            self.on_trial_result(trial_id, result or {})
        number, scores = self._running.pop(trial_id)
        parameters = self._unfinished.pop(number)
        others = self._others(number) if state == "complete" else ()
        self.finished[number] = FinishedTrial(number, parameters, state, value, scores, others)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing, for a sweep resumes from its trials' folders."""

    def _all_ended_for(self, number: int) -> bool:
        lag = self._sweep.lag
        return lag is None or not any(other <= number - lag for other in self._unfinished)

    def _propose(self, number: int) -> dict[str, Any]:
        lag = self._sweep.lag
        finished, running = self.finished, self._unfinished
        if lag is not None:
            begun = {n: trial.parameters for n, trial in finished.items()} | running
            finished = {n: trial for n, trial in finished.items() if n <= number - lag}
            running = {n: dict(p) for n, p in begun.items() if number - lag < n < number}
        ended = [*self._learnt, *finished.values()]
        return propose(self._sweep, number, ended, running, self._known)


def _waiting(
    sweep: SweepConfig, ended: set[int], unfinished: Sequence[tuple[int, Mapping[str, Any]]]
) -> list[tuple[int, Mapping[str, Any]]]:
    """Return trial 0, unless it has ended, and the unfinished trials by number."""
    again = sorted((trial for trial in unfinished if trial[0] != 0), key=lambda trial: trial[0])
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
