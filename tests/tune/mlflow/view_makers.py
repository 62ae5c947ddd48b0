"""What MLflow shows of a sweep."""

import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Run, ViewType
from mlflow.tracking import MlflowClient

from tests.tune.sweeps import (
    begin,
    end,
    write_board,
    write_complete_trial,
    write_outcome,
    write_progress,
)
from tune.directory import SweepDirectory
from tune.mlflow.tracker import Tracker


def wait_until_healthy(url: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{url}/health", timeout=1).close()
            return
        except (urllib.error.URLError, TimeoutError):
            assert process.poll() is None, "the server ended"
            time.sleep(0.1)
    raise AssertionError("the server never became healthy")


def write_everything(directory: SweepDirectory) -> None:
    write_complete_trial(directory.trial(0), 0, radius=0.2)
    write_complete_trial(directory.trial(1), 1, radius=0.3)
    begin(directory.trial(2), 2)
    write_progress(directory.trial(2), epochs=1, evaluations=1)
    end(directory.trial(2), "pruned")
    for number in (0, 1):
        write_complete_trial(directory.final(number), number, split="test", radius=0.25)
    directory.undefended.path.mkdir()
    write_outcome(directory.undefended, split="test", radius=0.05)
    write_board(directory)


RUN_NAMES = Counter(
    [
        *("trial 0", "trial 1", "trial 2", "final 0 (test)", "final 1 (test)"),
        *("undefended (test)", "digits"),
    ]
)


@dataclass(frozen=True)
class Shown:
    """What a client sees of a sweep, whatever store it is in."""

    client: MlflowClient
    experiment_id: str

    @classmethod
    def of(cls, tracker: Tracker, uri: str | None = None) -> "Shown":
        own = f"sqlite:///{tracker.directory.mlflow_database_path}"
        return cls(MlflowClient(uri or own), tracker.experiment_id())

    def runs(self) -> list[Run]:
        return list(self.client.search_runs([self.experiment_id], run_view_type=ViewType.ALL))

    def names(self) -> Counter[str]:
        return Counter(str(run.info.run_name) for run in self.runs())

    def run(self, name: str) -> Run:
        [found] = [run for run in self.runs() if run.info.run_name == name]
        return found

    def points(self, name: str, metric: str) -> list[tuple[int, float]]:
        history = self.client.get_metric_history(self.run(name).info.run_id, metric)
        return sorted((point.step, point.value) for point in history)

    def everything(self) -> dict[str, object]:
        """All that a second sync must leave as it is, the time stamps of points included."""
        return {
            run.info.run_id: (
                run.info.to_proto().SerializeToString(),
                run.data.params,
                run.data.tags,
                {
                    metric: sorted(
                        (point.step, point.timestamp, point.value)
                        for point in self.client.get_metric_history(run.info.run_id, metric)
                    )
                    for metric in run.data.metrics
                },
            )
            for run in self.runs()
        }


def artifact_folder(directory: SweepDirectory, run: Run) -> Path:
    identity = directory.read_record().id
    return directory.mlflow_artifacts_path / identity / str(run.info.run_id) / "artifacts"
