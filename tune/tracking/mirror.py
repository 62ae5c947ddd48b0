"""What MLflow is known to have of a run, so that nothing is logged twice."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tune.projection import Stamp

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


@dataclass
class RunMirror:
    """What MLflow is known to have of one run.

    Attributes:
        metrics_before: names of metrics that it had when the run was looked up.
        inputs: name and digest of each.
        artifacts: stamps of the files that were copied, by the artifact's name.
        generated: hashes of what no file has, by the artifact's name.
    """

    id: str
    artifact_uri: str
    status: str
    end_time: int | None
    deleted: bool
    parameters: dict[str, str]
    tags: dict[str, str]
    metrics_before: frozenset[str]
    inputs: set[tuple[str, str]]
    artifacts: dict[str, Stamp] = field(default_factory=dict)
    generated: dict[str, str] = field(default_factory=dict)
    _steps: dict[str, set[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, run: "Run") -> "RunMirror":
        """Take what MLflow answered when it was asked for a run."""
        return cls(
            id=run.info.run_id,
            artifact_uri=run.info.artifact_uri,
            status=run.info.status,
            end_time=run.info.end_time,
            deleted=run.info.lifecycle_stage != "active",
            parameters=dict(run.data.params),
            tags=dict(run.data.tags),
            metrics_before=frozenset(run.data.metrics),
            inputs={
                (logged.dataset.name, logged.dataset.digest)
                for logged in (run.inputs.dataset_inputs if run.inputs else ())
            },
        )

    def steps_of(self, client: "MlflowClient", metric: str) -> set[int]:
        """Return the steps at which MLflow has a metric; asks for them once."""
        if metric not in self._steps:
            before = metric in self.metrics_before
            history = client.get_metric_history(self.id, metric) if before else []
            self._steps[metric] = {point.step for point in history}
        return self._steps[metric]
