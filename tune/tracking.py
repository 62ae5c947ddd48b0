"""A sweep directory shown in MLflow: whatever is new in its files is logged, nothing twice."""

import hashlib
import json
import logging
import os
import shlex
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from decrop.errors import InputError
from decrop.files import sha256_of_json
from tune.directory import SweepDirectory
from tune.projection import (
    Input,
    RunView,
    Source,
    Stamp,
    page_state,
    sources,
    sweep_description,
)

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Experiment, Run
    from mlflow.tracking import MlflowClient

_KEY_TAG = "decrop.key"
_SYNCED_TAG = "decrop.synced"
_NOTE_TAG = "mlflow.note.content"
# Hashes of the descriptions that were written last: another one is somebody's own and stays.
_NOTE_HASHES_TAG = "decrop.note"
# A saved view of the experiment's page, named in its address: without it MLflow shows a chart for
# each metric, of no more than the first ten runs.
_VIEW = "all-trials"
_STATE_TAG = f"mlflow.sharedViewState.{_VIEW}"
# Where MLflow looks which of a run's artifacts are tables.
_TABLES_TAG = "mlflow.loggedArtifacts"
_CONTEXT_TAG = "mlflow.data.context"

# Limits of MLflow's stores; the experiment's tag is that of servers before 3.
_PARAMETER_CHARACTERS = 6000
_TAG_CHARACTERS = 8000
_EXPERIMENT_TAG_CHARACTERS = 5000
_DIGEST_CHARACTERS = 36
_NAME_CHARACTERS = 500

_LOCK_SECONDS = 60
_SERVER_ERROR = 500

_logger = logging.getLogger(__name__)


class TrackingError(RuntimeError):
    """Something could not be shown in MLflow; the sweep directory has it, and a repeat goes on."""


def experiment_page(experiment_id: str) -> str:
    """Return the path of MLflow's page that opens on the charts of all runs."""
    return (
        f"/#/experiments/{experiment_id}/runs"
        f"?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={_VIEW}"
    )


@dataclass(frozen=True)
class LoggedRun:
    """A run of a sweep as MLflow has it.

    Attributes:
        key: of what it shows: `trials/0`, `final/0`, …
        id: in MLflow.
        deleted: by somebody, in MLflow.
        points: name, step and value of every point of its metrics.
    """

    key: str
    id: str
    deleted: bool
    points: Sequence[tuple[str, int, float]]


class Tracker:
    """Projects one sweep directory into one MLflow experiment, with one flat run per folder.

    Without `tracking_uri` the store is the sweep's own `mlflow.db`, with artifacts where
    `mlflow server --artifacts-destination <sweep directory>/mlflow-artifacts` looks for them.
    """

    def __init__(self, directory: SweepDirectory, tracking_uri: str | None = None) -> None:
        """Remember what to project where; nothing is opened yet.

        Raises:
            InputError: the directory is no sweep directory, or the URI is not http(s).
        """
        if tracking_uri is not None:
            check_tracking_uri(tracking_uri)
        _set_up_mlflow()
        self.directory = directory
        self._record = directory.read_record()
        self._tracking_uri = tracking_uri
        self._lock = FileLock(directory.path / ".tracking.lock", timeout=_LOCK_SECONDS)
        self._client: MlflowClient | None = None
        self._experiment: Experiment | None = None
        self._runs: dict[str, _RunMirror] = {}
        self._synced: dict[str, str] = {}

    def experiment_id(self) -> str:
        """Return the experiment's id in MLflow; the first call makes store and experiment.

        Raises:
            TrackingError: MLflow cannot be reached or refuses.
        """
        with self._exclusive():
            return str(self._open_experiment().experiment_id)

    def sync(self) -> None:
        """Log whatever the directory has and MLflow has not.

        May be interrupted anywhere and repeated, also by another process.

        Raises:
            TrackingError: MLflow cannot be reached or refuses, or a folder is broken; everything
                else has been logged, and the next call tries again.
        """
        problems: list[tuple[str, Exception]] = []
        with self._exclusive():
            self._sync_experiment()
            listed = False
            for source in sources(self.directory, self._record):
                stamps = source.stamps()
                digest = sha256_of_json(stamps)
                if not stamps or self._synced.get(source.key) == digest:
                    continue
                if source.key not in self._runs and not listed:
                    self._list_runs()
                    listed = True
                try:
                    self._sync_run(source, stamps, digest)
                except BaseException as error:
                    # What was applied before it failed is unknown, so it is read again.
                    self._runs.pop(source.key, None)
                    if not isinstance(error, Exception) or _is_outage(error):
                        raise
                    problems.append((source.key, error))
        if problems:
            key, first = problems[0]
            raise TrackingError(
                f"{len(problems)} of the sweep's runs cannot be shown in MLflow; "
                f"first {key}: {_one_line(first)}"
            ) from first

    def logged_runs(self) -> list[LoggedRun]:
        """Read the runs of the sweep, deleted ones too; nothing is written.

        Raises:
            TrackingError: MLflow cannot be reached or refuses.
        """
        with _explained("read"):
            client = self._open_client()
            experiment = _find_experiment(client, self._full_key("experiment"))
            return (
                []
                if experiment is None
                else [
                    LoggedRun(
                        key=key,
                        id=run.info.run_id,
                        deleted="deleted" in (run.info.lifecycle_stage, experiment.lifecycle_stage),
                        points=[
                            (name, point.step, point.value)
                            for name in run.data.metrics
                            for point in client.get_metric_history(run.info.run_id, name)
                        ],
                    )
                    for key, run in self._runs_of(experiment)
                ]
            )

    def _sync_experiment(self) -> None:
        known = self._open_experiment()
        note, state = self._note(), page_state(self._record.sweep)
        if (known.tags.get(_NOTE_TAG), known.tags.get(_STATE_TAG)) == (note, state):
            return
        client, identity = self._open_client(), known.experiment_id
        current = client.get_experiment(identity)
        found = _hash(current.tags.get(_NOTE_TAG, ""))
        if found in current.tags.get(_NOTE_HASHES_TAG, "").split() and found != _hash(note):
            # Both, so that a break before the description is written leaves one that is known.
            client.set_experiment_tag(identity, _NOTE_HASHES_TAG, f"{found} {_hash(note)}")
            client.set_experiment_tag(identity, _NOTE_TAG, note)
        if current.tags.get(_STATE_TAG) != state:
            client.set_experiment_tag(identity, _STATE_TAG, state)
        # What there is to be shown, were it not for somebody's own description.
        known.tags.update({_NOTE_TAG: note, _STATE_TAG: state})

    def _note(self) -> str:
        return _shortened(sweep_description(self.directory, self._record))

    def _sync_run(self, source: Source, stamps: Mapping[str, Stamp], digest: str) -> None:
        run = self._runs.get(source.key)
        if run is None or run.tags.get(_SYNCED_TAG) != digest:
            view = source.view()
            if view is not None and (run is None or not run.deleted):
                if run is None:
                    run = self._create_run(source.key, view)
                self._log(run, view, stamps, digest)
        self._synced[source.key] = digest

    def _create_run(self, key: str, view: RunView) -> "_RunMirror":
        client, experiment = self._open_client(), self._open_experiment()
        created = client.create_run(
            experiment.experiment_id,
            start_time=_milliseconds(view.started),
            tags={_KEY_TAG: self._full_key(key)},
            run_name=view.name,
        )
        self._runs[key] = _RunMirror.of(created)
        return self._runs[key]

    def _log(
        self, run: "_RunMirror", view: RunView, stamps: Mapping[str, Stamp], digest: str
    ) -> None:
        client = self._open_client()
        self._log_values(client, run, view)
        for name, path in view.artifacts.items():
            if run.artifacts.get(name) != stamps.get(name):
                self._log_artifact(client, run, name, path)
                run.artifacts[name] = stamps[name]
        self._log_generated(client, run, view)
        _log_status(client, run, view)
        client.set_tag(run.id, _SYNCED_TAG, digest)  # Last: it says that all of the above is done.
        run.tags[_SYNCED_TAG] = digest

    def _log_generated(self, client: "MlflowClient", run: "_RunMirror", view: RunView) -> None:
        contents = {name: table.json().encode() for name, table in view.tables.items()}
        for name, content in {**contents, **view.drawn}.items():
            digest = hashlib.sha256(content).hexdigest()
            if run.generated.get(name) != digest:
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / PurePosixPath(name).name
                    path.write_bytes(content)
                    self._log_artifact(client, run, name, path)
                run.generated[name] = digest
        inputs = [put for put in view.inputs if _identity(put) not in run.inputs]
        if inputs:
            client.log_inputs(run.id, [_dataset_input(put) for put in inputs])
            run.inputs.update(map(_identity, inputs))

    def _log_values(self, client: "MlflowClient", run: "_RunMirror", view: RunView) -> None:
        from mlflow.entities import Metric, Param, RunTag

        parameters = {name: text[:_PARAMETER_CHARACTERS] for name, text in view.parameters.items()}
        tags = {name: text[:_TAG_CHARACTERS] for name, text in view.tags.items()}
        if view.tables:
            tables = [{"path": name, "type": "table"} for name in view.tables]
            tags[_TABLES_TAG] = json.dumps(tables)
        new_parameters = {k: v for k, v in parameters.items() if run.parameters.get(k) != v}
        new_tags = {k: v for k, v in tags.items() if run.tags.get(k, "") != v}
        new = [m for m in view.measurements if m.step not in run.steps_of(client, m.metric)]
        client.log_batch(
            run.id,
            metrics=[Metric(m.metric, m.value, _milliseconds(m.time), m.step) for m in new],
            params=[Param(name, text) for name, text in new_parameters.items()],
            tags=[RunTag(name, text) for name, text in new_tags.items()],
        )
        run.parameters.update(new_parameters)
        run.tags.update(new_tags)
        for measurement in new:
            run.steps_of(client, measurement.metric).add(measurement.step)

    def register_model(
        self,
        key: str,
        model: Path,
        name: str,
        *,
        description: str,
        champion: str,
        previous: str,
    ) -> int:
        """Upload a model to a run, register it as a new version and let it have an alias.

        Args:
            key: of the run, which a `sync` has made.
            model: folder of the model.
            name: of the registered model.
            description: of the version.
            champion: the alias; the version that had it before loses it.
            previous: the alias that this one gets instead.

        Returns:
            the version's number.

        Raises:
            TrackingError: MLflow cannot be reached or refuses.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

        with self._exclusive():
            client = self._open_client()
            self._open_experiment()
            self._list_runs()
            run = self._runs[key]
            self._log_artifact(client, run, model.name, model)
            try:
                client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                    raise
            before = client.get_registered_model(name).aliases.get(champion)
            created = client.create_model_version(
                name, f"{run.artifact_uri}/{model.name}", run.id, description=description
            )
            if before is not None:
                client.set_registered_model_alias(name, previous, str(before))
            client.set_registered_model_alias(name, champion, created.version)
            return int(created.version)

    def _log_artifact(
        self, client: "MlflowClient", run: "_RunMirror", name: str, path: Path
    ) -> None:
        """Log a file, or all files of a folder, as the artifact of a name that ends as theirs."""
        if self._tracking_uri is not None:
            if path.is_dir():
                client.log_artifacts(run.id, str(path), name)
            else:
                client.log_artifact(run.id, str(path), _parent(name))
            return
        from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

        # The run's address is relative to the server's destination, whatever folder that is.
        place = self.directory.mlflow_artifacts_path / urlsplit(run.artifact_uri).path.lstrip("/")
        repository = LocalArtifactRepository(str(place.resolve()))
        if path.is_dir():
            repository.log_artifacts(str(path), name)  # type: ignore[no-untyped-call]
        else:
            repository.log_artifact(str(path), _parent(name))  # type: ignore[no-untyped-call]

    def _list_runs(self) -> None:
        for key, run in self._runs_of(self._open_experiment()):
            if key not in self._runs:
                self._runs[key] = _RunMirror.of(run)

    def _runs_of(self, experiment: "Experiment") -> "Iterator[tuple[str, Run]]":
        """List the runs of this sweep by their key."""
        from mlflow.entities import ViewType

        client = self._open_client()
        token: str | None = None
        while True:
            page = client.search_runs(
                [experiment.experiment_id], run_view_type=ViewType.ALL, page_token=token
            )
            for run in page:
                prefix, _, key = run.data.tags.get(_KEY_TAG, "").partition("/")
                if prefix == self._record.id:
                    yield key, run
            token = page.token
            if not token:
                return

    def _open_client(self) -> "MlflowClient":
        if self._client is None:
            uri = self._tracking_uri
            if uri is None:
                uri = f"sqlite:///{self.directory.mlflow_database_path.resolve()}"
            self._client = _make_client(uri)
        return self._client

    def _open_experiment(self) -> "Experiment":
        if self._experiment is None:
            client = self._open_client()
            experiment = _find_experiment(client, self._full_key("experiment"))
            if experiment is None:
                experiment = self._create_experiment(client)
            if experiment.lifecycle_stage != "active":
                raise TrackingError(
                    f"MLflow's experiment {experiment.name!r} was deleted; restore it there "
                    f"(id {experiment.experiment_id}) to see this sweep again."
                )
            self._experiment = experiment
        return self._experiment

    def _create_experiment(self, client: "MlflowClient") -> "Experiment":
        name = f"{self._record.name} {self._record.created:%Y-%m-%d %H:%M:%S}"
        if client.get_experiment_by_name(name) is not None:
            name = f"{name} {self._record.id}"
        # A server knows best where its artifacts go; the sweep's own store must not depend on
        # where the directory lies.
        own_location = f"mlflow-artifacts:/{self._record.id}"
        experiment_id = client.create_experiment(
            name,
            artifact_location=own_location if self._tracking_uri is None else None,
            tags={
                _KEY_TAG: self._full_key("experiment"),
                _NOTE_TAG: self._note(),
                _NOTE_HASHES_TAG: _hash(self._note()),
                _STATE_TAG: page_state(self._record.sweep),
            },
        )
        return client.get_experiment(experiment_id)

    def _full_key(self, key: str) -> str:
        return f"{self._record.id}/{key}"

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        try:
            # Between looking a run up and making it no other process may do the same.
            with self._lock, _explained("updated"):
                yield
        except Timeout as error:
            raise TrackingError(
                f"Another process has been syncing {self.directory.path} for {_LOCK_SECONDS} s; "
                "try again when it is done."
            ) from error
        except OSError as error:
            raise TrackingError(f"MLflow cannot be updated: {_one_line(error)}") from error


class TrackingThread:
    """Syncs a sweep from one background thread, whatever happens to MLflow meanwhile."""

    def __init__(self, tracker: Tracker, interval: float = 5.0) -> None:
        """Prepare a thread that syncs every `interval` seconds; `start` starts it."""
        self._tracker = tracker
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow-tracking", daemon=True)
        self.last_error: Exception | None = None

    def start(self) -> None:
        """Begin syncing."""
        self._thread.start()

    def stop(self) -> None:
        """Sync once more, with everything written before this call, and end the thread."""
        self._stop.set()
        self._thread.join()

    def closing_warning(self) -> str | None:
        """Return what to tell the user if the last sync failed, None if MLflow is complete."""
        if self.last_error is None:
            return None
        directory = shlex.quote(str(self._tracker.directory.path))
        return (
            f"MLflow does not show all of the sweep: {_one_line(self.last_error)} "
            f"Nothing is lost; catch up with: decrop sync {directory}"
        )

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._sync()
        self._sync()

    def _sync(self) -> None:
        try:
            self._tracker.sync()
        except Exception as error:  # The sweep goes on, whatever the reason.
            if self.last_error is None:
                _logger.warning("%s It is tried again every %g s.", error, self._interval)
            self.last_error = error
        else:
            self.last_error = None


@dataclass
class _RunMirror:
    """What MLflow is known to have of one run."""

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
    def of(cls, run: "Run") -> "_RunMirror":
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
        if metric not in self._steps:
            before = metric in self.metrics_before
            history = client.get_metric_history(self.id, metric) if before else []
            self._steps[metric] = {point.step for point in history}
        return self._steps[metric]


def _parent(name: str) -> str | None:
    folder = str(PurePosixPath(name).parent)
    return None if folder == "." else folder


@contextmanager
def _explained(to_be: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise TrackingError(f"MLflow cannot be {to_be}: {_one_line(error)}") from error


def _make_client(uri: str) -> "MlflowClient":
    from mlflow.tracking import MlflowClient

    # It tells of every schema migration, and logs errors that it raises as well.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return MlflowClient(uri)


def _set_up_mlflow() -> None:
    # MLflow takes these from the environment only, the first one while it is imported.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    # Its own retries of an unanswered request could make a run twice; the next sync looks first.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"


def check_tracking_uri(uri: str) -> None:
    """Refuse what is no address of an MLflow server, without asking for it.

    Raises:
        InputError: the URI is not http(s), or holds credentials.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"Tracking URI {uri!r} is no server: give http://host:port or https://host, or none "
            "for the sweep's own store."
        )
    if parts.username is not None:
        raise InputError(
            "The tracking URI holds credentials; put them into MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD."
        )


def _find_experiment(client: "MlflowClient", key: str) -> "Experiment | None":
    from mlflow.entities import ViewType

    found = client.search_experiments(
        view_type=ViewType.ALL, filter_string=f"tags.`{_KEY_TAG}` = '{key}'"
    )
    return found[0] if found else None


def _log_status(client: "MlflowClient", run: _RunMirror, view: RunView) -> None:
    end_time = None if view.ended is None else _milliseconds(view.ended)
    if view.status == "RUNNING":
        if run.status != view.status:
            client.update_run(run.id, status=view.status)
    elif (run.status, run.end_time) != (view.status, end_time):
        client.set_terminated(run.id, view.status, end_time)
    run.status, run.end_time = view.status, end_time


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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


def _is_outage(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.get_http_status_code() >= _SERVER_ERROR  # type: ignore[no-untyped-call]


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _shortened(text: str) -> str:
    if len(text) <= _EXPERIMENT_TAG_CHARACTERS:
        return text
    ending = "\n…\n```\n"
    return text[: _EXPERIMENT_TAG_CHARACTERS - len(ending)] + ending
