"""Files projected into one experiment of MLflow: those of a sweep directory, or of a training."""

import logging
import shlex
import threading
import time
import uuid
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from decrop.errors import InputError
from decrop.files import LostFolderError, fence_of, sha256_of_json, write_text
from tune.directory import OWN_ARTIFACTS, OWN_STORE, SweepDirectory
from tune.mlflow.client import (
    TrackingError,
    check_tracking_uri,
    create_store,
    explained,
    is_outage,
    make_client,
    one_line,
    register_version,
    set_up_mlflow,
    sqlite_uri,
)
from tune.mlflow.experiment import ExperimentView, ShownExperiment
from tune.mlflow.page import page_state, sweep_description
from tune.mlflow.run_view import Source, Stamp
from tune.mlflow.sweep_view import BestSoFar, sources
from tune.mlflow.writer import (
    KEY_TAG,
    SYNCED_TAG,
    Artifacts,
    RunMirror,
    RunWriter,
)
from tune.space import objectives_of, sweep_kind, varied_paths

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run
    from mlflow.tracking import MlflowClient

_LOCK_SECONDS = 60
# Whatever a trial still writes after its state says that it has ended is written by then.
_SETTLED_SECONDS = 60


@dataclass(frozen=True)
class LoggedRun:
    """A run as MLflow has it.

    Attributes:
        key: of what it shows: `trials/0`, `final/0`, …
        points: name, step and value of every point of its metrics.
    """

    key: str
    id: str
    deleted: bool
    points: Sequence[tuple[str, int, float]]


@dataclass(frozen=True)
class Shown:
    """What becomes runs of one experiment.

    Attributes:
        path: what people call it, a folder.
        state_path: folder of what tracking keeps.
        id: unique; runs are found by it again.
        experiment: where the runs are.
        sources: lists everything that becomes a run, but those of given keys.
    """

    path: Path
    state_path: Path
    id: str
    experiment: ExperimentView
    sources: Callable[[Container[str]], Iterable[Source]]


class RunsTracker:
    """Projects files into one MLflow experiment, with one flat run per source.

    Without `tracking_uri` the store is an own `mlflow.db`, with artifacts where
    `mlflow server --artifacts-destination <folder>/mlflow-artifacts` looks for them.
    """

    def __init__(self, shown: Shown, tracking_uri: str | None = None) -> None:
        """Remember what to project where; nothing is opened yet."""
        if tracking_uri is not None:
            check_tracking_uri(tracking_uri)
        set_up_mlflow()
        self.shown = shown
        self._tracking_uri = tracking_uri
        self._lock = FileLock(shown.state_path / ".tracking.lock", timeout=_LOCK_SECONDS)
        # Who made runs last: while it is this tracker, `_runs` are all that there are.
        self._writer_path = shown.state_path / ".tracking.writer"
        self._identity = uuid.uuid4().hex
        self._listed = False
        self._runs: dict[str, RunMirror] = {}
        # Keys of runs of which it is not known what MLflow has, once all are listed.
        self._doubtful: set[str] = set()
        self._synced: dict[str, str] = {}
        # Keys of what has ended and is synced, and is not looked at again.
        self._settled: set[str] = set()

    def experiment_id(self) -> str:
        """Return the experiment's id in MLflow; the first call makes store and experiment.

        Raises:
            TrackingError: MLflow cannot be reached or refuses.
        """
        with self._exclusive():
            return str(self._experiment.open().experiment_id)

    def sync(self, *, whole: bool = False) -> None:
        """Log whatever the directory has and MLflow has not.

        May be interrupted anywhere and repeated, also by another process.

        Args:
            whole: looks again at what had ended before and was synced.

        Raises:
            TrackingError: MLflow cannot be reached or refuses, or a folder is broken; everything
                else has been logged, and the next call tries again.
        """
        problems: list[tuple[str, Exception]] = []
        with self._exclusive():
            try:
                self._experiment.sync()
            except InputError as error:
                problems.append(("the page", error))
            path = self._writer_path
            wrote_last = path.exists() and path.read_text() == self._identity
            self._listed = self._listed and wrote_last
            if whole:
                self._settled.clear()
            for source in self.shown.sources(self._settled):
                # What is under way when another process takes over still arrives, and shows what
                # the files said; that process lists all runs before it makes any.
                fence_of(self._writer_path)
                try:
                    self._sync_source(source)
                except BaseException as error:
                    # What was applied before it failed is unknown, so it is read again.
                    self._runs.pop(source.key, None)
                    self._doubtful.add(source.key)
                    if not isinstance(error, Exception) or _ends_sync(error):
                        raise
                    problems.append((source.key, error))
        if problems:
            key, first = problems[0]
            raise TrackingError(
                f"{len(problems)} of {self.shown.path.name}'s runs cannot be shown in MLflow; "
                f"first {key}: {one_line(first)}"
            ) from first

    def logged_runs(self) -> list[LoggedRun]:
        """Read the runs, deleted ones too; nothing is written.

        Raises:
            TrackingError: MLflow cannot be reached or refuses.
        """
        with explained("read"):
            experiment = self._experiment.find()
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
                            for point in self._client.get_metric_history(run.info.run_id, name)
                        ],
                    )
                    for key, run in self._runs_of(experiment)
                ]
            )

    def register_model(
        self, key: str, model: Path, name: str, *, description: str, usage: str
    ) -> int:
        """Upload a model to a run that a `sync` has made, and register it (`register_version`).

        Raises:
            TrackingError: MLflow cannot be reached or refuses.
        """
        with self._exclusive():
            self._list_runs()
            run = self._runs[key]
            self._artifacts.log(run, model.name, model)
            return register_version(
                self._client,
                name,
                source=f"{run.artifact_uri}/{model.name}",
                run_id=run.id,
                description=description,
                usage=usage,
            )

    def _sync_source(self, source: Source) -> None:
        stamps = source.stamps()
        digest = sha256_of_json(stamps)
        if not stamps:
            return
        if self._synced.get(source.key) != digest:
            self._know_run(source.key)
            self._sync_run(source, stamps, digest)
        run = self._runs.get(source.key)
        if run is not None and run.status != "RUNNING" and _settled(stamps):
            self._settled.add(source.key)

    def _know_run(self, key: str) -> None:
        """Find out what MLflow has of a run."""
        if key in self._runs:
            return
        if not self._listed:
            write_text(self._writer_path, self._identity)
            self._list_runs()
            self._listed = True
            self._doubtful.clear()
        elif key in self._doubtful:
            self._list_runs(f"tags.`{KEY_TAG}` = '{self._full_key(key)}'")
        self._doubtful.discard(key)

    def _sync_run(self, source: Source, stamps: dict[str, Stamp], digest: str) -> None:
        run = self._runs.get(source.key)
        if run is None or run.tags.get(SYNCED_TAG) != digest:
            view = source.view()
            if view is not None and (run is None or not run.deleted):
                if run is None:
                    run = self._writer.create(self._full_key(source.key), view)
                    self._runs[source.key] = run
                self._writer.log(run, view, stamps, digest)
        self._synced[source.key] = digest

    def _list_runs(self, those: str = "") -> None:
        for key, run in self._runs_of(self._experiment.open(), those):
            if key not in self._runs:
                self._runs[key] = RunMirror.of(run)

    def _runs_of(self, experiment: "Experiment", those: str = "") -> "Iterator[tuple[str, Run]]":
        """List the runs of what is shown by their key, those of a filter of MLflow's if given."""
        from mlflow.entities import ViewType

        token: str | None = None
        while True:
            page = self._client.search_runs(
                [experiment.experiment_id],
                filter_string=those,
                run_view_type=ViewType.ALL,
                page_token=token,
            )
            for run in page:
                prefix, _, key = run.data.tags.get(KEY_TAG, "").partition("/")
                if prefix == self.shown.id:
                    yield key, run
            token = page.token
            if not token:
                return

    @property
    def catching_up(self) -> str:
        """Say which command shows what MLflow lacks."""
        words = ["decrop", "sync", str(self.shown.path)]
        if self._tracking_uri is not None:
            words += ["--tracking-uri", self._tracking_uri]
        return f"catch up with: {shlex.join(words)}"

    @cached_property
    def _client(self) -> "MlflowClient":
        if self._tracking_uri is not None:
            return make_client(self._tracking_uri)
        database = (self.shown.state_path / OWN_STORE).resolve()
        create_store(database)
        return make_client(sqlite_uri(database))

    @cached_property
    def _experiment(self) -> ShownExperiment:
        # A server knows best where its artifacts go; an own store must not depend on where the
        # folder lies.
        location = None if self._tracking_uri else f"mlflow-artifacts:/{self.shown.id}"
        return ShownExperiment(self._client, self.shown.experiment, location)

    @cached_property
    def _artifacts(self) -> Artifacts:
        return Artifacts(self._tracking_uri, self.shown.state_path / OWN_ARTIFACTS)

    @cached_property
    def _writer(self) -> RunWriter:
        return RunWriter(self._client, self._experiment.open().experiment_id, self._artifacts)

    def _full_key(self, key: str) -> str:
        return f"{self.shown.id}/{key}"

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        try:
            # Between looking a run up and making it no other process may do the same.
            with self._lock, explained("updated"):
                fence_of(self._writer_path)
                yield
        except Timeout as error:
            raise TrackingError(
                f"Another process has been syncing {self.shown.path} for {_LOCK_SECONDS} s; "
                "try again when it is done."
            ) from error
        except OSError as error:
            raise TrackingError(f"MLflow cannot be updated: {one_line(error)}") from error


class Tracker(RunsTracker):
    """Projects one sweep directory into one MLflow experiment."""

    def __init__(self, directory: SweepDirectory, tracking_uri: str | None = None) -> None:
        """Remember what to project where; nothing is opened yet."""
        record = directory.read_record()
        name = f"{record.name} {record.created:%Y-%m-%d %H:%M:%S}"
        experiment = ExperimentView(
            name=name,
            page=page_state(
                sweep_kind(record.sweep), varied_paths(record.sweep), objectives_of(record.sweep)
            ),
            key=f"{record.id}/experiment",
            note=lambda: sweep_description(directory, record),
            reserve_name=f"{name} {record.id}",
        )
        path, best = directory.path, BestSoFar(directory, record)
        shown = Shown(
            path, path, record.id, experiment, lambda but: sources(directory, record, best, but)
        )
        super().__init__(shown, tracking_uri)
        self.directory = directory


def _ends_sync(error: Exception) -> bool:
    """Tell whether an error is of more than one run."""
    return isinstance(error, LostFolderError) or is_outage(error)


def _settled(stamps: Mapping[str, Stamp]) -> bool:
    """Tell whether nothing was written in the last minute."""
    last = max(modified for _, _, modified in stamps.values())
    return time.time_ns() - last > _SETTLED_SECONDS * 1_000_000_000


_logger = logging.getLogger(__name__)


class TrackingThread:
    """Syncs from one background thread, whatever happens to MLflow meanwhile."""

    def __init__(self, tracker: RunsTracker, interval: float = 10.0) -> None:
        """Prepare a thread that syncs every `interval` seconds; `start` starts it."""
        self._tracker = tracker
        self._interval = interval
        self._stop = threading.Event()
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name="mlflow-tracking", daemon=True)
        self.last_error: Exception | None = None

    def start(self) -> None:
        """Begin syncing."""
        self._thread.start()

    def stop(self) -> None:
        """Sync once more, with everything written before this call, and end the thread."""
        self._stop.set()
        self._thread.join()

    def abandon(self) -> None:
        """End the thread without syncing once more."""
        self._abandoned = True
        self.stop()

    def closing_warning(self) -> str | None:
        """Return what to tell the user if the last sync failed, None if MLflow is complete."""
        if self.last_error is None:
            return None
        return (
            f"MLflow does not show all of it: {one_line(self.last_error)} "
            f"Nothing is lost; {self._tracker.catching_up}"
        )

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._sync()
        if not self._abandoned:
            self._sync(whole=True)

    def _sync(self, *, whole: bool = False) -> None:
        try:
            self._tracker.sync(whole=whole)
        except LostFolderError:
            # What is tracked ends for the same reason, and says so.
            self._abandoned = True
            self._stop.set()
        except Exception as error:  # What is tracked goes on, whatever the reason.
            if self.last_error is None:
                _logger.warning("%s It is tried again every %g s.", error, self._interval)
            self.last_error = error
        else:
            self.last_error = None
