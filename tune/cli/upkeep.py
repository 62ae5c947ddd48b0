"""Commands that keep a sweep in order: sync, dashboard, audit, clean."""

from typing import Annotated

import typer

from decrop.cli.options import AsJson
from decrop.cli.output import console, print_json, say
from decrop.errors import InputError
from decrop.wording import counted
from tune.cli.options import (
    Directory,
    TrackingUri,
    mlflow_errors,
    print_tables,
    require_sweep_extra,
)


def sync(
    directory: Directory,
    tracking_uri: TrackingUri = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; compare, as `decrop audit` does.")
    ] = False,
) -> None:
    """Bring MLflow up to date with a sweep directory; repeating it changes nothing.

    It also takes the folder of a `decrop classifier train` or the bundle of a `decrop rejector
    train` that was tracked, with --tracking-uri.

    Example: [bold]decrop sync sweeps/quickstart-20260101-120000[/bold]
    """
    if check:
        audit(directory, tracking_uri)
        return
    require_sweep_extra()
    from tune.directory import SweepDirectory
    from tune.mlflow.tracked_training import training_in
    from tune.mlflow.tracker import Tracker
    from tune.mlflow.trainings import sync_training

    training = training_in(directory)
    if training is not None and tracking_uri is None:
        raise InputError(f"{directory}: is a training; give its server with --tracking-uri.")
    with mlflow_errors(), console.status("syncing"):
        if training is not None and tracking_uri is not None:
            sync_training(training, tracking_uri)
        else:
            Tracker(SweepDirectory.open(directory), tracking_uri).sync()
    say("MLflow is up to date")


def dashboard(
    directory: Directory,
    port: Annotated[int, typer.Option(help="Port on the loopback interface.")] = 5000,
) -> None:
    """Serve a sweep's MLflow pages on this machine until Ctrl-C, and print their address.

    Example: [bold]decrop dashboard sweeps/quickstart-20260101-120000[/bold]
    """
    require_sweep_extra()
    from tune.directory import SweepDirectory
    from tune.mlflow.registry import serve
    from tune.mlflow.tracker import Tracker

    opened = SweepDirectory.open(directory)
    with console.status("opening the store"):
        tracker = Tracker(opened)
        tracker.sync()
        experiment = tracker.experiment_id()
    say("starting MLflow; its address follows")
    serve(opened, experiment, port)


def audit(directory: Directory, tracking_uri: TrackingUri = None, as_json: AsJson = False) -> None:
    """Compare a sweep's files with what MLflow holds, trial by trial, point by point.

    Nothing is written. Exit code 1 if anything is lost, double or different.

    Example: [bold]decrop audit sweeps/quickstart-20260101-120000[/bold]
    """
    require_sweep_extra()
    from tune.directory import SweepDirectory
    from tune.mlflow.audit import audit_sweep, audit_table

    opened = SweepDirectory.open(directory)
    with mlflow_errors(), console.status("comparing"):
        found = audit_sweep(opened, tracking_uri)
    print_tables([audit_table(found)])
    for line in [*found.notes, *found.problems]:
        say(line)
    if as_json:
        print_json(found.counts)
    if found.problems:
        raise typer.Exit(1)


def clean(
    directory: Directory,
    top: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many of the best by held-out score keep their checkpoints, beside trial 0; "
            "the sweep's leaderboard.top if not given.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove checkpoints of trials that have ended and are not among the best.

    Weights, certificates, reports and whatever an unfinished trial goes on from stay, so that
    resume, leaderboard, export, verify and audit work as before. A sweep that runs is refused.

    Example: [bold]decrop clean sweeps/quickstart-20260101-120000 --top 1[/bold]
    """
    from tune.clean import plan_removal, remove
    from tune.directory import SweepDirectory
    from tune.driver import sole_driver

    opened = SweepDirectory.open(directory)
    with sole_driver(opened):
        removal = plan_removal(opened, top)
        kept = ", ".join(map(str, removal.kept)) or "none"
        if removal.files:
            say(
                f"to be removed: {counted(len(removal.files), 'file')} of "
                f"{counted(len(removal.trials), 'trial')}, {removal.megabytes:.1f} MB"
            )
        unfinished = (
            f" and of {left} that have not ended" if (left := len(removal.unfinished)) else ""
        )
        say(f"checkpoints stay of the best trials and trial 0 ({kept}){unfinished}")
        removed = bool(removal.files) and (yes or typer.confirm("Remove them?", err=True))
        if removed:
            remove(removal)
    say("removed" if removed else "nothing was removed")
    if as_json:
        print_json(
            {
                "removed": removed,
                "files": len(removal.files),
                "trials": len(removal.trials),
                "megabytes": removal.megabytes,
            }
        )
