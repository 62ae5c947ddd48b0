"""A sweep directory shown in MLflow: whatever is new in its files is logged, nothing twice."""

from tune.mlflow.client import TrackingError, check_tracking_uri
from tune.mlflow.experiment import experiment_page
from tune.mlflow.thread import TrackingThread
from tune.mlflow.tracker import LoggedRun, Tracker

__all__ = [
    "LoggedRun",
    "Tracker",
    "TrackingError",
    "TrackingThread",
    "check_tracking_uri",
    "experiment_page",
]
