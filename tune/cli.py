"""The commands that sweeps add to `decrop`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decrop.cli.options import AsJson, Assignments
from decrop.cli.output import accuracy_cell, console, print_json
from decrop.errors import InputError

# Ray and MLflow take seconds to import, and may not be installed; commands that need them import
# what uses them, so that `decrop --help` and the other commands do without.
if TYPE_CHECKING:
    from rich.table import Table

    from tune.leaderboard import Entry, Leaderboard
    from tune.sweep import SweepOutcome

app = typer.Typer()

Directory = Annotated[Path, typer.Argument(help="Sweep directory, as `decrop sweep` printed it.")]
Address = Annotated[
    str | None,
    typer.Option(help="Ray cluster: auto or HOST:PORT. Without it, this machine's cores are used."),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(help="MLflow server, http(s)://…, instead of a store in the sweep directory."),
]


@app.command()
def sweep(
    sweep_file: Annotated[
        str,
        typer.Argument(
            metavar="SWEEP", help="quickstart, cifar10, paper_table4, … or a YAML file."
        ),
    ],
    assignments: Assignments = None,
    trials: Annotated[int | None, typer.Option(help="Number of trials, with trial 0.")] = None,
    out: Annotated[Path, typer.Option(help="Where the sweep's own folder is made.")] = Path(
        "sweeps"
    ),
    address: Address = None,
    tracking_uri: TrackingUri = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and say what would run.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Search for the best denoiser, certify the best few on test images, export the best one.

    Trial 0 has the paper's choices. Nothing is chosen on test images.

    Example: [bold]decrop sweep quickstart[/bold], or [bold]decrop sweep cifar10 --set
    dataset.path=PATH --set classifier.weights=FILE.safetensors --address auto[/bold]
    """
    _require_sweep_extra()
    from tune.sweep import start_sweep
    from tune.sweep_file import load_sweep

    given = list(assignments or [])
    if trials is not None:
        given.append(f"trials={trials}")
    loaded = load_sweep(sweep_file, given)
    if dry_run:
        _dry_run(loaded, address, as_json=as_json)
        return
    _show_outcome(
        lambda: start_sweep(
            loaded, out, console=console, address=address, tracking_uri=tracking_uri
        ),
        as_json=as_json,
    )


@app.command()
def resume(
    directory: Directory,
    address: Address = None,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a sweep that was interrupted; finished trials are not repeated.

    Example: [bold]decrop resume sweeps/quickstart-20260101-120000[/bold]
    """
    _require_sweep_extra()
    from tune.directory import SweepDirectory
    from tune.sweep import resume_sweep

    opened = SweepDirectory.open(directory)
    _show_outcome(
        lambda: resume_sweep(opened, console=console, address=address, tracking_uri=tracking_uri),
        as_json=as_json,
    )


@app.command()
def leaderboard(directory: Directory, as_json: AsJson = False) -> None:
    """Show a sweep's certified denoisers, ranked by their held-out score.

    Example: [bold]decrop leaderboard sweeps/quickstart-20260101-120000[/bold]
    """
    from tune.directory import SweepDirectory
    from tune.leaderboard import read_leaderboard

    found = read_leaderboard(SweepDirectory.open(directory))
    if found is None:
        raise InputError(
            f"{directory} has no leaderboard yet; let the sweep end, or go on with "
            f"`decrop resume {directory}`."
        )
    _show_leaderboard(found)
    if as_json:
        print_json(asdict(found))


@app.command()
def report(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIRECTORY...", help="Sweep directories.")
    ],
    latex: Annotated[
        bool, typer.Option("--latex", help="Print LaTeX instead of Markdown.")
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option(help="Folder for report.md, report.tex and a figure of each sweep."),
    ] = None,
) -> None:
    """Print what sweeps have certified as tables, beside the paper's numbers where it has any.

    Example: [bold]decrop report sweeps/paper_table4-20260101-120000 --to table4[/bold]
    """
    from tune.directory import SweepDirectory
    from tune.report import read_report, report_latex, report_markdown, write_report

    reports = [read_report(SweepDirectory.open(directory)) for directory in directories]
    if to is not None:
        write_report(reports, to)
    # As it is: no wrapping, and nothing taken for markup.
    print(report_latex(reports) if latex else report_markdown(reports), end="")


@app.command()
def export(
    directory: Directory,
    to: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    trial: Annotated[str, typer.Option(help="best, a trial's number or a row's name.")] = "best",
    without_classifier: Annotated[
        bool, typer.Option("--without-classifier", help="Leave the classifier's weights out.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a trial's denoiser as a bundle: weights, settings, certificates, model card.

    Example: [bold]decrop export sweeps/quickstart-20260101-120000 --to my-denoiser[/bold]
    """
    from tune.directory import SweepDirectory
    from tune.export import export_trial, trial_number

    opened = SweepDirectory.open(directory)
    number = trial_number(opened, trial)
    export_trial(opened, number, to, with_classifier=not without_classifier)
    console.print(f"bundle of trial {number}: {to}", soft_wrap=True, highlight=False)
    if as_json:
        print_json({"trial": number, "bundle": str(to)})


@app.command()
def sync(directory: Directory, tracking_uri: TrackingUri = None) -> None:
    """Bring MLflow up to date with a sweep directory; repeating it changes nothing.

    Example: [bold]decrop sync sweeps/quickstart-20260101-120000[/bold]
    """
    _require_sweep_extra()
    from tune.directory import SweepDirectory
    from tune.tracking import Tracker, TrackingError

    tracker = Tracker(SweepDirectory.open(directory), tracking_uri)
    try:
        with console.status("syncing"):
            tracker.sync()
    except TrackingError as error:
        console.print(f"error: {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    console.print("MLflow is up to date", highlight=False)


@app.command()
def dashboard(
    directory: Directory,
    port: Annotated[int, typer.Option(help="Port on the loopback interface.")] = 5000,
) -> None:
    """Serve a sweep's MLflow pages on this machine until Ctrl-C, and print their address.

    Example: [bold]decrop dashboard sweeps/quickstart-20260101-120000[/bold]
    """
    _require_sweep_extra()
    from tune.dashboard import serve
    from tune.directory import SweepDirectory
    from tune.tracking import Tracker

    opened = SweepDirectory.open(directory)
    with console.status("opening the store"):
        tracker = Tracker(opened)
        tracker.sync()
        experiment = tracker.experiment_id()
    console.print("starting MLflow; its address follows", highlight=False)
    serve(opened, experiment, port)


def _require_sweep_extra() -> None:
    try:
        import mlflow  # noqa: F401
        import optuna  # noqa: F401
        import ray  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{error.name} is not installed; install the extra with pip install 'decrop[sweep]'."
        ) from None


def _dry_run(loaded: Any, address: str | None, *, as_json: bool) -> None:
    from tune.cluster import claims, cluster, local_size
    from tune.plan import plan_sweep
    from tune.sweep import check_sweep

    check_sweep(loaded)
    if address is None:
        size = local_size()
    else:
        with cluster(address) as size:
            pass
    plan = plan_sweep(loaded, claims(loaded.resources, size), size)
    how = f"of {len(loaded.rows)} rows" if loaded.rows else f"by {loaded.search}"
    lines = [
        f"{loaded.name}: {plan.trials} trials {how}, {plan.at_once} at once on "
        f"{size.cpu:g} CPUs and {size.gpu:g} GPUs",
        f"then {plan.finals} trained on the whole limited data and certified on test images",
        f"{plan.training_images:,} training images (three views each) and "
        f"{plan.noisy_samples:,} noisy samples",
        f"roughly {plan.hours:.2g} hours on this machine if no trial is pruned",
        "everything is in order; nothing was started",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    if as_json:
        print_json(asdict(plan))


def _show_outcome(run: Any, *, as_json: bool) -> None:
    from tune.dashboard import dashboard_command, dashboard_url
    from tune.sweep import SweepFailedError, SweepInterruptedError

    try:
        outcome: SweepOutcome = run()
    except SweepInterruptedError as interruption:
        where = interruption.directory.path
        console.print(f"stopped; go on with: decrop resume {where}", soft_wrap=True)
        raise typer.Exit(130) from None
    except SweepFailedError as error:
        console.print(f"error: {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    _show_leaderboard(outcome.leaderboard)
    directory = outcome.directory
    command = dashboard_command(directory)
    url = None
    if outcome.experiment_id is not None:
        url = dashboard_url(outcome.experiment_id)
    for name, value in (
        ("bundle", str(directory.bundle_path)),
        ("verify", f"decrop verify {directory.bundle_path}"),
        ("dashboard", command),
        ("opens at", url),
        ("warning", outcome.warning),
    ):
        if value is not None:
            console.print(f"{name + ':':<11}{value}", soft_wrap=True, highlight=False)
    if as_json:
        print_json(_outcome_json(outcome, url))


def _outcome_json(outcome: "SweepOutcome", url: str | None) -> dict[str, Any]:
    board = outcome.leaderboard
    reference = board.reference

    def entry(row: "Entry") -> dict[str, Any]:
        return {
            "trial": row.number,
            "certified_accuracy": row.result["certified_accuracy"],
            "average_certified_radius": row.result["average_certified_radius"],
            "against_undefended": None
            if row.against_undefended is None
            else {radius: asdict(c) for radius, c in row.against_undefended.items()},
        }

    return {
        "sweep_dir": str(outcome.directory.path),
        "bundle": str(outcome.directory.bundle_path),
        "experiment_url": url,
        "trials": outcome.trials,
        "stage1_computed": outcome.stage1_computed,
        "best": entry(board.best),
        "reference": None if reference is None else entry(reference),
        "undefended": entry(board.undefended),
    }


def _show_leaderboard(board: "Leaderboard") -> None:
    console.print(_leaderboard_table(board))
    console.print(board.summary, highlight=False)


def _leaderboard_table(board: "Leaderboard") -> "Table":
    from rich.table import Table

    from decrop.result import radius_key
    from tune.leaderboard import entry_name

    table = Table(title="Certified accuracy on test images, % (95 % interval)")
    table.add_column("rank", justify="right")
    table.add_column("denoiser")
    table.add_column("held-out\nradius", justify="right")
    for radius in board.radii:
        table.add_column(f"r = {radius:g}", justify="right")
    for row in [*board.entries, board.undefended]:
        held_out = "" if row.held_out_radius is None else f"{row.held_out_radius:.3f}"
        cells = [
            accuracy_cell(
                row.result["certified_accuracy"][radius_key(radius)], row.result["images"]
            )
            for radius in board.radii
        ]
        table.add_row(str(row.rank or ""), entry_name(row), held_out, *cells)
    return table
