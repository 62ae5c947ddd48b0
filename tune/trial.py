"""A trial as Ray Tune runs it: one held-out evaluation a step."""

import math
from collections.abc import Generator
from dataclasses import asdict
from typing import Any

from ray.tune import Trainable

from decrop.trial import Report
from tune.directory import TrialRecord
from tune.failures import ends_sweep
from tune.job import SweepJob, run_recorded
from tune.pruning import EVALUATION
from tune.space import trial_row

METRIC = "average_certified_radius"
# Keys of results that are no scores: the trial failed and raises its error at the next step, or it
# ended because the sweep is to stop, where the trial has found out so itself with reason and cause.
FAILED, STOPPED, REASON, CAUSE = "failed", "stopped", "reason", "cause"
_NO_SCORE = {METRIC: math.nan, EVALUATION: 0, "finished": False}


class SweepTrial(Trainable):
    """Thin adapter from the reports of a trial to the steps of a Trainable.

    A class rather than a function, because a generator that is closed stops at once, where a
    function's thread would have to be waited for.
    """

    _job: SweepJob
    _reports: Generator[Report]
    _failure: Exception | None

    def setup(  # type: ignore[override]  # with_parameters adds the job
        self, config: dict[str, Any], job: SweepJob
    ) -> None:
        """Take up the trial that the searcher proposed."""
        self._job = job
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Turn the same process to another trial, which saves its start."""
        self.cleanup()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train until the next evaluation and return its scores.

        A trial that fails says so before it raises, so that the driver can tell it from one whose
        process died, and only takes up the latter again.
        """
        if self._failure is not None:
            raise self._failure
        try:
            report = next(self._reports, None)
        except Exception as failure:
            if (found := ends_sweep(failure)) is not None:
                reason, cause = found
                return {**_NO_SCORE, STOPPED: True, REASON: reason, CAUSE: cause, "done": True}
            self._failure = failure
            return {**_NO_SCORE, FAILED: True, "done": False}
        if report is None:
            return {**_NO_SCORE, STOPPED: True, "done": True}
        return {**asdict(report), "done": report.finished}

    def cleanup(self) -> None:
        """Stop the trial."""
        self._reports.close()

    def _begin(self, config: dict[str, Any]) -> None:
        self._failure = None
        self._reports = self._run(config)

    def _run(self, config: dict[str, Any]) -> Generator[Report]:
        number = config["number"]
        record = TrialRecord(
            number=number,
            row=trial_row(self._job.sweep, number),
            reference=config["reference"],
            parameters=config["parameters"],
            config=self._job.config(number, config["parameters"]),
        )
        folder = self._job.directory.trial(number)
        yield from run_recorded(self._job, record, folder, "held_out")
