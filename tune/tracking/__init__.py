"""A sweep directory shown in MLflow: whatever is new in its files is logged, nothing twice."""

from tune.tracking.client import check_tracking_uri
from tune.tracking.errors import TrackingError
from tune.tracking.experiment import experiment_page
from tune.tracking.thread import TrackingThread
from tune.tracking.tracker import LoggedRun, Tracker

__all__ = [
    "LoggedRun",
    "Tracker",
    "TrackingError",
    "TrackingThread",
    "check_tracking_uri",
    "experiment_page",
]
