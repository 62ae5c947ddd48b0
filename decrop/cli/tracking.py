"""Trainings in MLflow, shown by whoever is installed to do so; this package knows no MLflow."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Literal

import typer

from decrop.errors import InputError

_GROUP = "decrop.trackers"

Kind = Literal["classifier", "rejector"]
# Kind, folder that is written, address and experiment to a context in which the training is shown.
Tracker = Callable[[Kind, Path, str, str | None], AbstractContextManager[None]]

TrackingUri = Annotated[
    str | None, typer.Option(help="MLflow server, http(s)://…, that shows the training as a run.")
]
Experiment = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Its experiment there; one for each kind if not given."),
]


def tracked(
    kind: Kind, folder: Path, tracking_uri: str | None, experiment: str | None
) -> AbstractContextManager[None]:
    """Return a context in which a training is shown in MLflow, or in which nothing is."""
    if tracking_uri is None:
        if experiment is not None:
            raise InputError(f"--experiment {experiment}: has no effect without --tracking-uri.")
        return nullcontext()
    found = entry_points(group=_GROUP, name="mlflow")
    if not found:
        raise InputError(
            "--tracking-uri needs MLflow; install it with pip install 'decrop[sweep]'."
        )
    tracker: Tracker = next(iter(found)).load()
    return tracker(kind, folder, tracking_uri, experiment)
