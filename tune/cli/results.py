"""Commands that read what sweeps have found: leaderboard, compare, report, export."""

import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decrop.cli.options import AsJson, TrustCode
from decrop.cli.output import console, print_json, say
from decrop.errors import InputError
from tune.cli.options import (
    INTERVAL_DECIMALS,
    Address,
    Directory,
    TrackingUri,
    mlflow_errors,
    print_tables,
    require_sweep_extra,
)

# Whatever imports Ray, MLflow, Optuna or PyTorch is imported by the commands that need it.
if TYPE_CHECKING:
    from tune.directory import SweepDirectory
    from tune.sweep import RunOptions


Methods = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="What a target is called in tables and legends; repeat it for each, in their order.",
    ),
]
Radii = Annotated[
    str | None,
    typer.Option(
        metavar="R,R,…",
        help="L2 radii to show, such as 0,0.25,0.5; those of the settings by default.",
    ),
]


def leaderboard(
    directory: Directory,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC",
            help="Held-out score that ranks trials, as average_certified_radius or "
            "certified_accuracy@RADIUS. The sweep's own if not given.",
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="How many of the best are compared, with trial 0.")
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(min=1, help="Compare settings over trainings from seeds 0 to SEEDS - 1."),
    ] = 1,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Show it anew while the sweep runs, every ten seconds, until it ends."
        ),
    ] = False,
    address: Address = None,
    tracking_uri: TrackingUri = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Rank a sweep's trials by their held-out score, and compare the best on test images.

    While a sweep runs, or after it was stopped, it shows what there is so far, and starts nothing.

    Given --by, --top or --seeds, final trainings and certificates that are missing are made first;
    finished ones are never repeated. The sweep's own leaderboard and bundle stay as they are.

    Example: [bold]decrop leaderboard sweeps/quickstart-20260101-120000 --top 2 --seeds 3[/bold]
    """
    from tune.directory import SweepDirectory
    from tune.results.leaderboard import build_leaderboard
    from tune.results.metric import metric_named
    from tune.results.ranking import certified_radii, chosen, ranking, sweep_metric
    from tune.results.tables import leaderboard_tables
    from tune.trust import resume_command

    opened = SweepDirectory.open(directory)
    more = by is not None or top is not None or seeds > 1
    if watch and not more:
        _watch(opened)
    if not opened.leaderboard_json_path.exists():
        if more:
            raise InputError(
                f"{directory} has no leaderboard yet, and --by, --top and --seeds certify what it "
                f"lacks; let the sweep end, or go on with "
                f"`{resume_command(opened, address, tracking_uri)}`."
            )
        _show_so_far(opened, as_json=as_json)
        return
    radii = certified_radii(opened)
    metric = sweep_metric(opened) if by is None else metric_named(by, radii, source="--by")
    _check_seeds(opened, seeds)
    wanted = top or opened.read_record().sweep.leaderboard.top
    numbers = chosen(list(ranking(opened, metric)), wanted)
    if more:
        require_sweep_extra()
        from tune.sweep import RunOptions

        options = RunOptions(console, address, tracking_uri, trust_code=trust_code)
        _certify_missing(opened, numbers, seeds, options)
    board = build_leaderboard(opened, radii, metric=metric, top=wanted, seeds=seeds)
    print_tables(leaderboard_tables(board, decimals=INTERVAL_DECIMALS))
    say(board.summary)
    if as_json:
        print_json(asdict(board))


def compare(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...",
            help="Sweep directories (their best trial; DIRECTORY:3, DIRECTORY:ROW or "
            "DIRECTORY:undefended for another), bundles, files of `decrop certify`, or per-image "
            "logs of published code.",
        ),
    ],
    method: Methods = None,
    radii: Radii = None,
    envelope: Annotated[
        bool,
        typer.Option("--envelope", help="Add of each image the largest radius of any target."),
    ] = False,
    norms: Annotated[
        bool, typer.Option("--norms", help="Add a table over the L1 and L-infinity radii.")
    ] = False,
    pixel_values: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of an image, channels x height x width; for --norms of logs.",
        ),
    ] = None,
    latex: Annotated[bool, typer.Option("--latex", help="Print the tables in LaTeX.")] = False,
    to: Annotated[
        Path | None, typer.Option(help="Folder for compare.md and compare.png, all curves.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare certificates on the same images: each with the first, at every radius.

    Of logs, columns are found by their names; what is correct follows from label and prediction.

    Example: [bold]decrop compare sweeps/quickstart-20260101-120000 my-denoiser --to both[/bold]
    """
    from tune.results.compare import (
        envelope_of,
        place_side_by_side,
        read_certified,
        renamed,
        side_by_side_tables,
        write_side_by_side,
    )

    if to is not None and to.exists() and not to.is_dir():
        raise InputError(f"--to {to}: is a file; give a folder.")
    at = _radii(radii)
    sources = [read_certified(target) for target in targets]
    told = [pixel_values, *(source.pixel_values for source in sources)]
    shown = next((values for values in told if values is not None), None)
    if norms and shown is None:
        raise InputError("--norms: no target tells the size of its images; add --pixel-values N.")
    if method:
        sources = renamed(sources, method)
    if envelope:
        sources.append(envelope_of(sources))
    board = place_side_by_side(sources, at, pixel_values=shown if norms else None)
    if latex:
        print("\n".join(table.latex() for table in side_by_side_tables(board)), end="")
    else:
        print_tables(side_by_side_tables(board, decimals=INTERVAL_DECIMALS))
        say(board.summary)
    if to is not None:
        write_side_by_side(sources, board, to)
        say(f"written to: {to}")
    if as_json:
        print_json(asdict(board))


def report(
    targets: Annotated[
        list[Path],
        typer.Argument(
            metavar="TARGET...",
            help="Sweep directories; bundles, files of `decrop certify` and per-image logs of "
            "published code, which share a table.",
        ),
    ],
    method: Methods = None,
    radii: Radii = None,
    latex: Annotated[
        bool, typer.Option("--latex", help="Print LaTeX instead of Markdown.")
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option(help="Folder for report.md, report.tex and a figure of each sweep."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the page of one sweep that has ended instead: charts, "
            "tables and test images in one file, which needs no network.",
        ),
    ] = None,
    trust_code: TrustCode = False,
) -> None:
    """Print what sweeps have certified as tables, beside the paper's numbers where it has any.

    Example: [bold]decrop report sweeps/paper_table4-20260101-120000 --to table4[/bold]
    """
    from dataclasses import replace

    from tune.directory import SweepDirectory
    from tune.results.compare import read_certified, renamed
    from tune.results.report import (
        certificates_report,
        read_report,
        report_latex,
        report_markdown,
        write_report,
    )

    at = _radii(radii)
    if html is not None:
        if len(targets) > 1 or method or at or latex or to is not None:
            raise InputError(
                f"--html {html}: writes the page of one sweep; give one directory, without any "
                "other option but --trust-code."
            )
        _write_page(targets[0], html, trust_code=trust_code)
        return
    sweeps = [target for target in targets if SweepDirectory(target).record_path.exists()]
    others = [read_certified(str(target)) for target in targets if target not in sweeps]
    if method:
        others = renamed(others, method)
    reports = [read_report(SweepDirectory.open(directory)) for directory in sweeps]
    reports += [certificates_report(others)] if others else []
    reports = [replace(one, radii=at) if at else one for one in reports]
    if to is not None:
        write_report(reports, to)
    # As it is: no wrapping, and nothing taken for markup.
    print(report_latex(reports) if latex else report_markdown(reports), end="")


def export(
    directory: Directory,
    to: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    trial: Annotated[str, typer.Option(help="best, a trial's number or a row's name.")] = "best",
    without_classifier: Annotated[
        bool, typer.Option("--without-classifier", help="Leave the classifier's weights out.")
    ] = False,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Add the denoiser as ONNX, checked against PyTorch.")
    ] = False,
    torch_export: Annotated[
        bool, typer.Option("--torch-export", help="Add it as a .pt2 for torch.export.load.")
    ] = False,
    license_id: Annotated[
        str, typer.Option("--license", help="Licence in the model card, such as apache-2.0.")
    ] = "unknown",
    register: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Register it in MLflow as the champion of this model, ready to be served.",
        ),
    ] = None,
    tracking_uri: TrackingUri = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Write a trial's denoiser as a bundle: weights, settings, certificates, model card.

    Example: [bold]decrop export sweeps/quickstart-20260101-120000 --to my-denoiser --onnx[/bold]
    """
    from tune.directory import SweepDirectory
    from tune.export import export_trial, trial_number

    _check_registration(register, tracking_uri, without_classifier=without_classifier)
    opened = SweepDirectory.open(directory)
    number = trial_number(opened, trial, source=f"--trial {trial}")
    export_trial(
        opened,
        number,
        to,
        with_classifier=not without_classifier,
        onnx=onnx,
        torch_export=torch_export,
        license_id=license_id,
        trust_code=trust_code,
    )
    say(f"bundle of trial {number}: {to}")
    document: dict[str, Any] = {"trial": number, "bundle": str(to)}
    if register is not None:
        document |= {
            "model": register,
            "version": _register(opened, number, to, register, tracking_uri, trust_code=trust_code),
        }
    if as_json:
        print_json(document)


def _write_page(directory: Path, path: Path, *, trust_code: bool) -> None:
    from tune.directory import SweepDirectory

    require_sweep_extra()
    from tune.results.html.page import write_page

    if path.is_dir():
        raise InputError(f"--html {path}: is a folder; give a file.")
    missing = write_page(SweepDirectory.open(directory), path, trust_code=trust_code)
    if missing:
        say(f"note: {missing}")
    say(f"written to: {path}")


_WATCH_SECONDS = 10.0


def _show_so_far(directory: "SweepDirectory", *, as_json: bool = False) -> None:
    """Print what a sweep that has not ended has found."""
    from tune.results.leaderboard import held_out_ranking, interim_tables
    from tune.results.ranking import sweep_metric

    print_tables(interim_tables(directory, decimals=INTERVAL_DECIMALS))
    say(_so_far(directory))
    if as_json:
        ranked = held_out_ranking(directory, sweep_metric(directory))
        print_json({"ended": False, "held_out": [asdict(row) for row in ranked]})


def _so_far(directory: "SweepDirectory") -> str:
    states = [directory.trial(number).read_state() for number in directory.trial_numbers()]
    counts = Counter(
        "begun" if state is None or state.ended is None else state.state for state in states
    )
    told = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none yet"
    return f"trials so far: {told}; the sweep has not ended"


def _watch(directory: "SweepDirectory") -> None:
    """Show what a sweep has found whenever that is something else, until it has ended."""
    shown = None
    while not directory.leaderboard_json_path.exists():
        if console.is_terminal:
            console.clear()
        if console.is_terminal or _so_far(directory) != shown:
            shown = _so_far(directory)
            _show_so_far(directory)
        time.sleep(_WATCH_SECONDS)
    if console.is_terminal:
        console.clear()


def _radii(text: str | None) -> tuple[float, ...] | None:
    """Return what --radii gives, checked as the setting of a certification is."""
    if text is None:
        return None
    from decrop.config import CertificationSettings
    from decrop.documents import parse_yaml, validated

    given = {"radii": parse_yaml(f"[{text}]", "--radii")}
    return validated(CertificationSettings, given, source="--radii").radii


def _check_registration(
    name: str | None, tracking_uri: str | None, *, without_classifier: bool
) -> None:
    if name is None:
        if tracking_uri is not None:
            raise InputError(
                f"--tracking-uri {tracking_uri}: has no effect without --register; add it, or drop "
                "this one."
            )
        return
    if without_classifier:
        raise InputError("--register: a model is served with its classifier; drop one of both.")
    require_sweep_extra()
    from tune.mlflow.client import check_tracking_uri

    if not name.strip() or set(name) & set("/:"):
        raise InputError(f"--register {name!r}: must be a name without '/' and ':'.")
    if tracking_uri is not None:
        check_tracking_uri(tracking_uri)


def _register(
    directory: "SweepDirectory",
    number: int,
    bundle: Path,
    name: str,
    tracking_uri: str | None,
    *,
    trust_code: bool,
) -> int:
    from tune.mlflow.registry import register_bundle, serving_commands

    with mlflow_errors(), console.status("registering"):
        version = register_bundle(
            directory, number, bundle, name, tracking_uri=tracking_uri, trust_code=trust_code
        )
    say(f"registered as version {version} of {name}, now its champion")
    for line in serving_commands(directory, name, tracking_uri):
        say(line)
    return version


def _check_seeds(directory: "SweepDirectory", seeds: int) -> None:
    own = directory.read_record().sweep.seeds
    if seeds > 1 and own != 1:
        raise InputError(
            f"--seeds {seeds}: the sweep has trained every row from {own} seeds already; see "
            f"`decrop report {directory.quoted}`."
        )


def _certify_missing(
    directory: "SweepDirectory", numbers: list[int], seeds: int, options: "RunOptions"
) -> None:
    from tune.stopping import SAME_COMMAND
    from tune.sweep import SweepStoppedError, certify_trials

    try:
        warning = certify_trials(directory, numbers, options, seeds=seeds)
    except SweepStoppedError as stopped:
        full = stopped.reason == "disk"
        why = f"error: {stopped.cause}\nonce there is room" if full else "stopped"
        say(f"{why}; {SAME_COMMAND}")
        raise typer.Exit(1 if full else 130) from None
    if warning is not None:
        say(f"warning: {warning}")
