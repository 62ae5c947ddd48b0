"""`decrop audit` and `decrop clean`: whether a sweep's records agree, and what can go."""

from typing import Annotated

import typer

from decrop.cli.options import AsJson
from decrop.cli.output import console, print_json
from tune.cli.options import Directory, TrackingUri, require_sweep_extra
from tune.cli.output import print_tables


def audit(directory: Directory, tracking_uri: TrackingUri = None, as_json: AsJson = False) -> None:
    """Compare a sweep's files with what MLflow holds, trial by trial, point by point.

    Nothing is written. Exit code 1 if anything is lost, double or different.

    Example: [bold]decrop audit sweeps/quickstart-20260101-120000[/bold]
    """
    require_sweep_extra()
    from tune.audit import audit_sweep, audit_table
    from tune.directory import SweepDirectory
    from tune.mlflow import TrackingError

    opened = SweepDirectory.open(directory)
    try:
        with console.status("comparing"):
            found = audit_sweep(opened, tracking_uri)
    except TrackingError as error:
        console.print(f"error: {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    print_tables([audit_table(found)])
    for line in [*found.notes, *found.problems]:
        console.print(line, highlight=False, soft_wrap=True)
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
        console.print(
            f"to be removed: {len(removal.files)} files of {len(removal.trials)} trials, "
            f"{removal.megabytes:.1f} MB; checkpoints stay of the best trials and trial 0 "
            f"({kept}) and of {len(removal.unfinished)} that have not ended",
            highlight=False,
            soft_wrap=True,
        )
        removed = bool(removal.files) and (yes or typer.confirm("Remove them?", err=True))
        if removed:
            remove(removal)
    console.print("removed" if removed else "nothing was removed", highlight=False)
    if as_json:
        print_json(
            {
                "removed": removed,
                "files": len(removal.files),
                "trials": len(removal.trials),
                "megabytes": removal.megabytes,
            }
        )
