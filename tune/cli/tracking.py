"""`decrop sync` and `decrop dashboard`: a sweep in MLflow."""

from typing import Annotated

import typer

from decrop.cli.output import console
from decrop.errors import InputError
from tune.cli.options import Directory, TrackingUri, require_sweep_extra


def sync(directory: Directory, tracking_uri: TrackingUri = None) -> None:
    """Bring MLflow up to date with a sweep directory; repeating it changes nothing.

    It also takes the folder of a `decrop classifier train` or the bundle of a `decrop rejector
    train` that was tracked, with --tracking-uri.

    Example: [bold]decrop sync sweeps/quickstart-20260101-120000[/bold]
    """
    require_sweep_extra()
    from tune.directory import SweepDirectory
    from tune.mlflow import Tracker, TrackingError
    from tune.mlflow.trainings import sync_training
    from tune.training_folder import training_in

    training = training_in(directory)
    if training is not None and tracking_uri is None:
        raise InputError(f"{directory}: is a training; give its server with --tracking-uri.")
    try:
        with console.status("syncing"):
            if training is not None and tracking_uri is not None:
                sync_training(training, tracking_uri)
            else:
                Tracker(SweepDirectory.open(directory), tracking_uri).sync()
    except TrackingError as error:
        console.print(f"error: {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    console.print("MLflow is up to date", highlight=False)


def dashboard(
    directory: Directory,
    port: Annotated[int, typer.Option(help="Port on the loopback interface.")] = 5000,
) -> None:
    """Serve a sweep's MLflow pages on this machine until Ctrl-C, and print their address.

    Example: [bold]decrop dashboard sweeps/quickstart-20260101-120000[/bold]
    """
    require_sweep_extra()
    from tune.directory import SweepDirectory
    from tune.mlflow import Tracker
    from tune.mlflow.dashboard import serve

    opened = SweepDirectory.open(directory)
    with console.status("opening the store"):
        tracker = Tracker(opened)
        tracker.sync()
        experiment = tracker.experiment_id()
    console.print("starting MLflow; its address follows", highlight=False)
    serve(opened, experiment, port)
