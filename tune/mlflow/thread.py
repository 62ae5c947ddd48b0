"""Tracking beside what runs."""

import logging
import shlex
import threading

from decrop.files import LostFolderError
from tune.mlflow.client import one_line
from tune.mlflow.tracker import RunsTracker

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
        path = shlex.quote(str(self._tracker.shown.path))
        return (
            f"MLflow does not show all of it: {one_line(self.last_error)} "
            f"Nothing is lost; catch up with: decrop sync {path}"
        )

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._sync()
        if not self._abandoned:
            self._sync()

    def _sync(self) -> None:
        try:
            self._tracker.sync()
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
