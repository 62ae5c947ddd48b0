"""`decrop sweep` and `decrop resume`: run a sweep to its end."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decrop.cli.options import AsJson, Assignments, TrustCode
from decrop.cli.output import console, duration, print_json, say
from decrop.errors import InputError
from decrop.wording import counted, joined
from tune.cli.options import (
    INTERVAL_DECIMALS,
    Address,
    Directory,
    TrackingUri,
    print_tables,
    require_sweep_extra,
)

MaxHours = Annotated[
    float | None,
    typer.Option(
        help="Stop after so many hours: no trial begins any more, those that run save their state. "
        "Exit code 3.",
    ),
]
FAILED, OUT_OF_TIME = 1, 3

# Ray and MLflow take seconds to import, and may not be installed; commands that need them import
# what uses them, so that `decrop --help` and the other commands do without.
if TYPE_CHECKING:
    from decrop.trial.query_budget import TotalQueries
    from tune.directory import SweepDirectory
    from tune.plan import Plan
    from tune.results.board import Entry
    from tune.sweep import RunOptions, SweepOutcome, SweepStoppedError
    from tune.sweep_file import SweepConfig


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
    learn_from: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIRECTORY",
            help="Earlier sweep, measured alike, whose trials the search begins with; repeatable.",
        ),
    ] = None,
    max_hours: MaxHours = None,
    address: Address = None,
    tracking_uri: TrackingUri = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and say what would run.")
    ] = False,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Search for the best denoiser, certify the best few on test images, export the best one.

    Trial 0 has the settings of the file; the others are compared with it. Nothing is chosen on test
    images. A sweep imports the code that its file names, as a script does; only --dry-run waits for
    --trust-code.

    Example: [bold]decrop sweep quickstart[/bold], or [bold]decrop sweep cifar10 --set
    dataset.path=PATH --set classifier.weights=FILE.safetensors --address auto[/bold]
    """
    require_sweep_extra()
    from tune.sweep import RunOptions, start_sweep
    from tune.sweep_file import load_sweep

    given = list(assignments or [])
    if trials is not None:
        given.append(f"trials={trials}")
    loaded = load_sweep(sweep_file, given)
    _check_hours(max_hours)
    earlier = tuple(learn_from or ())
    if dry_run:
        from tune.earlier import gather

        gather(loaded, earlier, say)
        _dry_run(loaded, address, trust_code=trust_code, as_json=as_json)
        return
    options = RunOptions(console, address, tracking_uri, max_hours, learn_from=earlier)
    _show_outcome(lambda: start_sweep(loaded, out, options), options, as_json=as_json)


def resume(
    directory: Directory,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Trials in total from now on, also of a sweep that has ended."),
    ] = None,
    query_budget: Annotated[
        int | None,
        typer.Option(min=1, help="Images that an endpoint may be asked about in all from now on."),
    ] = None,
    max_hours: MaxHours = None,
    address: Address = None,
    tracking_uri: TrackingUri = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Go on with a sweep that was interrupted, or add trials to it; none is repeated.

    Example: [bold]decrop resume sweeps/quickstart-20260101-120000 --trials 40[/bold]
    """
    require_sweep_extra()
    from tune.directory import SweepDirectory
    from tune.sweep import RunOptions, resume_sweep

    _check_hours(max_hours)
    opened = SweepDirectory.open(directory)
    options = RunOptions(console, address, tracking_uri, max_hours, trust_code)
    _show_outcome(
        lambda: resume_sweep(opened, options, trials=trials, query_budget=query_budget),
        options,
        as_json=as_json,
    )


def _check_hours(max_hours: float | None) -> None:
    if max_hours is not None and not max_hours > 0:
        raise InputError(f"--max-hours {max_hours:g}: must be more than 0.")


def _dry_run(loaded: Any, address: str | None, *, trust_code: bool, as_json: bool) -> None:
    from tune.check import check_sweep
    from tune.cluster import claims, cluster, local_size
    from tune.plan import plan_sweep, sweep_queries
    from tune.space import reference_config

    preparation = check_sweep(loaded, refused=None if trust_code else "code")
    if address is None:
        size = local_size()
    else:
        with cluster(address) as size:
            pass
    claimed = claims(loaded.resources, size, reference_config(loaded).execution.device)
    say(f"{loaded.name}: timing its networks on this machine")
    plan = plan_sweep(loaded, claimed, size, preparation)
    how = f"of {counted(len(loaded.rows), 'row')}" if loaded.rows else f"by {loaded.search}"
    lines = [
        f"{loaded.name}: {counted(plan.trials, 'trial')} {how}, {plan.at_once} at once "
        f"on {size.processors}",
        *_reference_is(loaded),
        f"then {plan.finals} {_finals_are(loaded)}certified on test images",
        _work(plan),
        f"roughly {duration(3600 * plan.hours)} on this machine if no trial is pruned",
        *_of_a_black_box(sweep_queries(loaded, preparation)),
        "everything is in order; nothing was started",
    ]
    for line in lines:
        say(line)
    if as_json:
        print_json(asdict(plan))


def _work(plan: "Plan") -> str:
    trained_on = counted(plan.training_images, "training image")
    classified = counted(plan.classifier_images, "image")
    work = {
        counted(plan.generated_images, "generated image"): plan.generated_images,
        f"{trained_on} (each view and attack step)": plan.training_images,
        f"{classified} to train classifiers (each noise sample and attack step)": (
            plan.classifier_images
        ),
        counted(plan.noisy_samples, "noisy sample"): plan.noisy_samples,
    }
    return joined([text for text, count in work.items() if count])


def _of_a_black_box(queries: "TotalQueries | None") -> list[str]:
    return [] if queries is None else [f"{queries.sentence()}; its time comes on top"]


def _reference_is(sweep: "SweepConfig") -> list[str]:
    from tune.space import reference_config, reference_words
    from tune.sweep_file import PAPER

    words = reference_words(reference_config(sweep))
    if sweep.reference == PAPER:
        words += ", with the paper’s losses, attack and interpolation and no prior"
    return [] if sweep.rows else [f"trial 0, with which the others are compared: {words}"]


def _finals_are(sweep: "SweepConfig") -> str:
    from tune.space import reference_config

    again = reference_config(sweep).trains_again_for_test
    return "trained on the whole limited data and " if again else ""


def _show_outcome(run: Any, options: "RunOptions", *, as_json: bool) -> None:
    from tune.mlflow.registry import dashboard_command, dashboard_url
    from tune.results.tables import accuracy_table
    from tune.sweep import SweepFailedError, SweepStoppedError

    try:
        outcome: SweepOutcome = run()
    except SweepStoppedError as stopped:
        raise typer.Exit(_show_interim(stopped, options)) from None
    except SweepFailedError as error:
        say(f"error: {error}")
        raise typer.Exit(FAILED) from None
    print_tables([accuracy_table(outcome.leaderboard, decimals=INTERVAL_DECIMALS)])
    say(outcome.leaderboard.summary)
    directory = outcome.directory
    _say_asked(directory)
    url = None
    if outcome.experiment_id is not None:
        url = dashboard_url(outcome.experiment_id, server=options.tracking_uri)
    for name, value in (
        ("bundle", str(directory.bundle_path)),
        ("verify", _verify_command(directory)),
        ("report", str(directory.page_path)),
        # A server shows the sweep without it.
        ("dashboard", dashboard_command(directory) if options.tracking_uri is None else None),
        ("opens at", url),
        ("warning", outcome.warning),
    ):
        if value is not None:
            say(f"{name + ':':<11}{value}")
    if as_json:
        print_json(_outcome_json(outcome, url))


def _verify_command(directory: "SweepDirectory") -> str:
    from decrop.bundle import read_certificates
    from decrop.bundle.usage import verify_command
    from tune.space import reference_config

    config, bundle = read_certificates(directory.bundle_path)[0], directory.bundle_path
    # A bundle does not record where its data lies.
    data = reference_config(directory.read_record().sweep).dataset
    return verify_command(
        config.model_copy(update={"dataset": data}),
        str(bundle),
        with_classifier=config.classifier.asked is None,
    )


def _say_asked(directory: "SweepDirectory") -> None:
    from decrop.black_box import QueryLedger

    if directory.queries_path.exists():
        spent = QueryLedger(directory.queries_path).spent()
        say(
            f"asked the endpoint for {counted(spent.asked, 'image')} so far (counted in "
            f"{directory.queries_path})"
        )


def _show_interim(stopped: "SweepStoppedError", options: "RunOptions") -> int:
    """Say what a stopped sweep has found, and return the exit code of why it stopped."""
    from tune.results.leaderboard import interim_tables
    from tune.stopping import INTERRUPTED

    tables = interim_tables(stopped.directory, decimals=INTERVAL_DECIMALS)
    print_tables(tables)
    if not tables:
        say("no trial has finished yet")
    _say_asked(stopped.directory)
    code, why = {
        "interrupted": (INTERRUPTED, "stopped"),
        "time": (OUT_OF_TIME, "stopped after --max-hours"),
        "failures": (FAILED, f"error: {stopped.cause}\nonce that is mended"),
        "disk": (FAILED, f"error: {stopped.cause}\nonce there is room"),
    }[stopped.reason]
    say(f"{why}; {options.going_on(stopped.directory)}")
    return code


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
        "report": str(outcome.directory.page_path),
        "experiment_url": url,
        "trials": outcome.trials,
        "stage1_computed": outcome.stage1_computed,
        "best": entry(board.best),
        "reference": None if reference is None else entry(reference),
        "undefended": None if board.undefended is None else entry(board.undefended),
    }
