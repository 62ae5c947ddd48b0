"""One run in MLflow brought up to what it should show; nothing is logged twice."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from decrop.files import write_bytes, write_whole
from tune.mlflow.run_view import Input, RunView, Stamp

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from mlflow.tracking import MlflowClient


# The sweep's id, a slash and what it is: `experiment`, or the key of a run.
KEY_TAG = "decrop.key"
# Hash of the stamps of all that a run shows.
SYNCED_TAG = "decrop.synced"


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


class Artifacts:
    """Where a server, or one that is started on a folder later, looks for artifacts."""

    def __init__(self, tracking_uri: str | None, destination: Path) -> None:
        """Remember the server, and the destination that the one of an own store is to be given."""
        self._tracking_uri = tracking_uri
        self._destination = destination

    def log(self, run: RunMirror, name: str, path: Path) -> None:
        """Log a file, or all files of a folder, as the artifact of a name that ends as theirs."""
        if path.is_dir():
            self._repository(run).log_artifacts(str(path), name)  # type: ignore[no-untyped-call]
        elif self._tracking_uri is None:
            write_whole(self._place(run) / name, lambda temporary: _copy(path, temporary))
        else:
            folder = str(PurePosixPath(name).parent)
            parent = None if folder == "." else folder
            self._repository(run).log_artifact(str(path), parent)  # type: ignore[no-untyped-call]

    def log_content(self, run: RunMirror, name: str, content: bytes) -> None:
        """Log what no file has as the artifact of a name."""
        if self._tracking_uri is None:
            write_bytes(self._place(run) / name, content)
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / PurePosixPath(name).name
            path.write_bytes(content)
            self.log(run, name, path)

    def _repository(self, run: RunMirror) -> "ArtifactRepository":
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
        from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

        if self._tracking_uri is not None:
            # By the run's address, which a client would first ask the server for.
            return get_artifact_repository(run.artifact_uri, self._tracking_uri)
        return LocalArtifactRepository(str(self._place(run)))

    def _place(self, run: RunMirror) -> Path:
        # Relative to the destination, wherever the folder lies by then.
        return (self._destination / urlsplit(run.artifact_uri).path.lstrip("/")).resolve()


def _copy(path: Path, to: Path) -> None:
    # Not a link: an upload to MLflow would be written into the sweep's own file.
    shutil.copyfile(path, to)


# Where MLflow looks which of a run's artifacts are tables.
_TABLES_TAG = "mlflow.loggedArtifacts"
_CONTEXT_TAG = "mlflow.data.context"

# Limits of MLflow's stores.
_PARAMETER_CHARACTERS = 6000
_TAG_CHARACTERS = 8000
_DIGEST_CHARACTERS = 36
_NAME_CHARACTERS = 500
# Of one request: parameters, and just as many tags; and all together.
_BATCH_PARAMETERS = 100
_BATCH = 1000


class RunWriter:
    """Writes runs of one experiment."""

    def __init__(self, client: "MlflowClient", experiment_id: str, artifacts: Artifacts) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._artifacts = artifacts

    def create(self, full_key: str, view: RunView) -> RunMirror:
        """Make a run that shows the tags of a view and nothing else yet."""
        created = self._client.create_run(
            self._experiment_id,
            start_time=_milliseconds(view.started),
            tags={KEY_TAG: full_key, **_tags(view)},
            run_name=view.name,
        )
        return RunMirror.of(created)

    def log(self, run: RunMirror, view: RunView, stamps: Mapping[str, Stamp], digest: str) -> None:
        """Log whatever the view has and the run has not, then the digest of the stamps."""
        try:
            self._log_files(run, view, stamps)
            self._log_inputs(run, view)
        except Exception:
            # A store of artifacts that is away keeps no metric from being seen.
            self._log_values(run, view, {})
            raise
        self._log_status(run, view)
        # Last, and with it the digest: it says that all of the above is done.
        self._log_values(run, view, {SYNCED_TAG: digest})

    def _log_values(self, run: RunMirror, view: RunView, last: Mapping[str, str]) -> None:
        """Log parameters, metrics and tags in one request where they fit, the `last` tags last."""
        from mlflow.entities import Metric, Param, RunTag

        client = self._client
        parameters = {name: text[:_PARAMETER_CHARACTERS] for name, text in view.parameters.items()}
        new_parameters = {k: v for k, v in parameters.items() if run.parameters.get(k) != v}
        new_tags = {k: v for k, v in _tags(view).items() if run.tags.get(k, "") != v}
        new = [m for m in view.measurements if m.step not in run.steps_of(client, m.metric)]
        # A store writes the tags of a request after its parameters and metrics.
        log = partial(client.log_batch, run.id)
        parameters_left = [Param(name, text) for name, text in new_parameters.items()]
        metrics_left = [Metric(m.metric, m.value, _milliseconds(m.time), m.step) for m in new]
        tags_left = [RunTag(name, text) for name, text in {**new_tags, **last}.items()]
        while len(parameters_left) > _BATCH_PARAMETERS:
            log(metrics=[], params=parameters_left[:_BATCH_PARAMETERS])
            del parameters_left[:_BATCH_PARAMETERS]
        while len(tags_left) > _BATCH_PARAMETERS:
            log(metrics=[], tags=tags_left[:_BATCH_PARAMETERS])
            del tags_left[:_BATCH_PARAMETERS]
        room = _BATCH - len(parameters_left) - len(tags_left)
        while len(metrics_left) > room:
            log(metrics=metrics_left[:room])
            del metrics_left[:room]
        log(metrics=metrics_left, params=parameters_left, tags=tags_left)
        run.parameters.update(new_parameters)
        run.tags.update({**new_tags, **last})
        for measurement in new:
            run.steps_of(client, measurement.metric).add(measurement.step)

    def _log_files(self, run: RunMirror, view: RunView, stamps: Mapping[str, Stamp]) -> None:
        for name, path in view.artifacts.items():
            if run.artifacts.get(name) != stamps.get(name):
                self._artifacts.log(run, name, path)
                run.artifacts[name] = stamps[name]
        for name, table in view.tables.items():
            content = table.json().encode()
            digest = hashlib.sha256(content).hexdigest()
            if run.generated.get(name) != digest:
                self._artifacts.log_content(run, name, content)
                run.generated[name] = digest

    def _log_inputs(self, run: RunMirror, view: RunView) -> None:
        inputs = [put for put in view.inputs if _identity(put) not in run.inputs]
        if inputs:
            self._client.log_inputs(run.id, [_dataset_input(put) for put in inputs])
            run.inputs.update(map(_identity, inputs))

    def _log_status(self, run: RunMirror, view: RunView) -> None:
        end_time = None if view.ended is None else _milliseconds(view.ended)
        if view.status == "RUNNING":
            if run.status != view.status:
                self._client.update_run(run.id, status=view.status)
        elif (run.status, run.end_time) != (view.status, end_time):
            self._client.set_terminated(run.id, view.status, end_time)
        run.status, run.end_time = view.status, end_time


def _tags(view: RunView) -> dict[str, str]:
    tags = {name: text[:_TAG_CHARACTERS] for name, text in view.tags.items()}
    if view.tables:
        tables = [{"path": name, "type": "table"} for name in view.tables]
        tags[_TABLES_TAG] = json.dumps(tables)
    return tags


def _identity(put: Input) -> tuple[str, str]:
    return put.name[:_NAME_CHARACTERS], put.digest[:_DIGEST_CHARACTERS]


def _dataset_input(put: Input) -> "DatasetInput":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    name, digest = _identity(put)
    source = json.dumps({"uri": put.source, "sha256": put.digest})
    return DatasetInput(
        Dataset(name=name, digest=digest, source_type="local", source=source),
        [InputTag(_CONTEXT_TAG, put.context)],
    )


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)
