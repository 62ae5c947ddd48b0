"""When Ray Tune ends the search of a sweep before all its trials have."""

from typing import Any

from ray.tune import Callback
from ray.tune.stopper import Stopper

from tune.directory import SweepDirectory
from tune.failures import common_cause
from tune.stopping import SweepStop
from tune.trial import CAUSE, REASON, STOPPED

# So many trials that fail one after another have a cause that the next one has too.
FAILURES_IN_A_ROW = 10


class EndingsCallback(Callback):
    """Keeps count of the trials that run, and ends the search when too many in a row fail
    or one of them cannot go on for a reason that is not its own.

    It comes after the callback that writes down how a trial ended.

    Attributes:
        cause: what those trials failed with, or that reason; None unless it ended the search.
    """

    def __init__(self, directory: SweepDirectory, stop: SweepStop) -> None:
        self._directory = directory
        self._stop = stop
        self._running: set[int] = set()
        self._errors: list[str] = []
        self.cause: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave everything out: Ray Tune pickles callbacks to where nobody reads them again."""
        return {}

    @property
    def anything_runs(self) -> bool:
        """Whether a trial has begun and not ended."""
        return bool(self._running)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count a trial that begins, or begins again."""
        self._running.add(trial.config["number"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count a trial that ended well, or was stopped."""
        self._running.discard(trial.config["number"])
        if not trial.last_result.get(STOPPED):
            self._errors.clear()
        elif REASON in trial.last_result:
            self.cause = trial.last_result[CAUSE]
            self._stop.request(trial.last_result[REASON])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count a failure, and end the search when there are too many in a row."""
        number = trial.config["number"]
        self._running.discard(number)
        state = self._directory.trial(number).read_state()
        self._errors.append(state.error if state is not None and state.error else "unknown error")
        if len(self._errors) >= FAILURES_IN_A_ROW:
            message, count = common_cause(self._errors)
            self.cause = (
                f"the last {len(self._errors)} trials failed, {count} of them with: {message}"
            )
            self._stop.request("failures")


class SearchStopper(Stopper):
    """Ends the search once it is to stop and all trials have saved their state, or cannot."""

    def __init__(self, stop: SweepStop, endings: EndingsCallback) -> None:
        self._stop = stop
        self._endings = endings

    def __getstate__(self) -> dict[str, Any]:
        """Leave everything out, as the callback does."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Let each trial end by itself."""
        return False

    def stop_all(self) -> bool:
        """Tell whether the search is over."""
        return self._stop.due() and (not self._endings.anything_runs or self._stop.overdue())
