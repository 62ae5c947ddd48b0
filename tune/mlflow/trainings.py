"""Trainings of classifiers and rejectors in MLflow, for commands that know no MLflow."""

import shlex
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from decrop.cli.output import console
from decrop.errors import InputError
from tune.mlflow.client import TrackingError, check_tracking_uri, one_line
from tune.mlflow.experiment import ExperimentView, experiment_page
from tune.mlflow.page import page_state
from tune.mlflow.thread import TrackingThread
from tune.mlflow.tracker import RunsTracker, Shown
from tune.mlflow.training_view import training_sources
from tune.training_folder import TrainingFolder, TrainingKind, known_record, now


@contextmanager
def track_training(
    kind: TrainingKind, path: Path, tracking_uri: str, experiment: str | None
) -> Iterator[None]:
    """Show a training in MLflow while it runs in the block, and how it ended.

    A training that goes on after it was killed is the same run. MLflow being away delays nothing.
    Where the block refuses its input, nothing is shown.

    Args:
        kind: of what is trained.
        path: folder of the classifier, or of the bundle to be written.
        tracking_uri: http(s) address of an MLflow server.
        experiment: its run's experiment, made if there is none; one for each kind if not given.

    Raises:
        InputError: the address cannot be used, or MLflow is not installed.
    """
    check_tracking_uri(tracking_uri)
    try:
        import mlflow  # noqa: F401
    except ImportError:
        raise InputError(
            "--tracking-uri needs MLflow; install it with pip install 'decrop[sweep]'."
        ) from None
    folder = TrainingFolder(kind, path)
    earlier = folder.read_record()
    record = folder.begin(experiment or f"{kind} training")
    tracker = RunsTracker(_shown(folder), tracking_uri)
    thread = TrackingThread(tracker)
    thread.start()
    try:
        yield
    except InputError:
        thread.abandon()
        if earlier is None:
            folder.forget()
        else:
            folder.write_record(earlier)
        raise
    except BaseException as error:
        failed = isinstance(error, Exception)
        ending = {
            "status": "FAILED" if failed else "KILLED",
            "error": traceback.format_exc() if failed else None,
        }
        folder.write_record(record.model_copy(update={**ending, "ended": now()}))
        thread.stop()
        raise
    if record.status == "RUNNING":
        folder.write_record(record.model_copy(update={"status": "FINISHED", "ended": now()}))
    thread.stop()
    _say_where(tracker, thread, tracking_uri)


def sync_training(folder: TrainingFolder, tracking_uri: str) -> None:
    """Bring MLflow up to date with a training; repeating it changes nothing.

    Raises:
        InputError: the folder holds no training that is tracked, or the address cannot be used.
        TrackingError: MLflow cannot be reached or refuses.
    """
    folder.settle()
    RunsTracker(_shown(folder), tracking_uri).sync()


def _shown(folder: TrainingFolder) -> Shown:
    """Return one run, in an experiment that several trainings share."""
    record = known_record(folder)
    page = page_state([], trains_classifier=True)
    return Shown(
        path=folder.path,
        state_path=folder.state_path,
        id=record.id,
        experiment=ExperimentView(record.experiment, page),
        sources=lambda: training_sources(folder),
    )


def _say_where(tracker: RunsTracker, thread: TrackingThread, tracking_uri: str) -> None:
    if thread.last_error is None:
        try:
            page = experiment_page(tracker.experiment_id())
        except TrackingError as error:
            thread.last_error = error
    if thread.last_error is None:
        line = f"MLflow: {tracking_uri.rstrip('/')}{page}"
    else:
        line = (
            f"warning: MLflow does not show all of it: {one_line(thread.last_error)} Nothing is "
            f"lost; catch up with: decrop sync {shlex.quote(str(tracker.shown.path))} "
            f"--tracking-uri {tracking_uri}"
        )
    console.print(line, highlight=False, soft_wrap=True)
