"""A trial as Ray Tune runs it: one held-out evaluation a step."""

from collections.abc import Generator
from dataclasses import asdict
from typing import Any, cast

from ray.tune import Trainable

from decrop.trial import Report
from tune.directory import TrialRecord
from tune.job import SweepJob, run_recorded
from tune.space import trial_row

METRIC = "average_certified_radius"


class SweepTrial(Trainable):
    """Thin adapter from the reports of a trial to the steps of a Trainable.

    A class rather than a function, because a generator that is closed stops at once, where a
    function's thread would have to be waited for.
    """

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
        """Train until the next evaluation and return its scores."""
        report = next(self._reports)
        return {**asdict(report), "done": report.finished}

    def cleanup(self) -> None:
        """Stop the trial."""
        self._reports.close()

    def _begin(self, config: dict[str, Any]) -> None:
        number = config["number"]
        record = TrialRecord(
            number=number,
            row=trial_row(self._job.sweep, number),
            reference=config["reference"],
            parameters=config["parameters"],
            config=self._job.config(number, config["parameters"]),
        )
        folder = self._job.directory.trial(number)
        self._reports = cast(
            "Generator[Report]", run_recorded(self._job, record, folder, "held_out")
        )
