"""`decrop rejector`: rejectors behind the denoiser of a bundle."""

from pathlib import Path
from typing import Annotated

import typer

from decrop.cli.certify import refuse_what_a_bundle_fixes
from decrop.cli.options import AsJson, Assignments, ClassifierWeights, DatasetPath
from decrop.cli.output import accuracy_table, console, print_json, progress_bars, say
from decrop.cli.tracking import Experiment, TrackingUri, tracked
from decrop.errors import InputError

rejector = typer.Typer(name="rejector", no_args_is_help=True)

_OWN = "rejector."
_CHANGEABLE = ("certification", "execution")
# Theorem 3.1 is about counts with rejections, and their number is fixed beforehand.
_CERTIFICATE = ("certification.procedure=fixed", "certification.certificate=rejection")


@rejector.callback()
def _group() -> None:
    """Train rejectors, which turn doubtful noisy images away, behind a denoiser.

    Example: [bold]decrop rejector train runs/digits/bundle --out runs/digits/rejecting[/bold]
    """


@rejector.command()
def train(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle without a rejector.")],
    out: Annotated[Path, typer.Option(help="Folder to write: the bundle with a rejector.")],
    settings: Annotated[
        str, typer.Option(help="small, paper, or a YAML file of the rejector's settings.")
    ] = "small",
    assignments: Assignments = None,
    dataset_path: DatasetPath = None,
    weights: ClassifierWeights = None,
    tracking_uri: TrackingUri = None,
    experiment: Experiment = None,
    as_json: AsJson = False,
) -> None:
    """Train a rejector on the limited data, certify test images with it, write a new bundle.

    The rejector trains on the limited data without its held-out part, on which it is scored. What
    is certified, and with how many samples and which failure probability, is as the bundle says,
    but with equally many samples of each image (certification.estimation_samples). --set changes
    rejector.KEY, certification.KEY and execution.KEY.

    Example: [bold]decrop rejector train runs/digits/bundle --out runs/digits/rejecting[/bold]
    """
    from importlib.resources import files

    from decrop.bundle import load_bundle
    from decrop.bundle.rejector import add_rejector
    from decrop.classifiers.storage import file_or_url
    from decrop.cli.options import assigned, change
    from decrop.config.rejector import RejectorSettings
    from decrop.documents import load_document
    from decrop.trial.folder import TrialFolder

    if out.exists():
        raise InputError(f"--out {out} exists already; choose a folder that does not.")
    own = [assignment for assignment in assignments or [] if assignment.startswith(_OWN)]
    others = [assignment for assignment in assignments or [] if assignment not in own]
    refuse_what_a_bundle_fixes(others, changeable=_CHANGEABLE)
    if dataset_path is not None:
        others.append(f"dataset.path={dataset_path}")
    presets = files("decrop") / "presets" / "rejector"
    document = load_document(settings, presets, kind="rejector preset")
    rejector_settings = assigned(RejectorSettings, document, own, source=settings, group=_OWN)
    loaded = load_bundle(bundle, classifier=file_or_url(weights))
    config = change(loaded.config, [*_CERTIFICATE, *others])
    with tracked("rejector", out, tracking_uri, experiment), progress_bars() as bars:
        made = add_rejector(
            bundle,
            loaded,
            config,
            rejector_settings,
            out,
            TrialFolder(out.with_name(f"{out.name}.training")),
            hooks=bars.hooks("certifying"),
        )
    scores = made.rejector.held_out
    rows = {"rejector": made.result.scores}
    same = made.result.hashes["certified_images"] == loaded.result.hashes["certified_images"]
    if same and config.certification.radii == loaded.config.certification.radii:
        rows["without"] = loaded.result.scores
    console.print(accuracy_table("Certified accuracy on test images, % (95 % interval)", rows))
    console.print(
        f"of {scores.draws} noisy held-out images {_percent(scores.rejected)} are rejected: "
        f"{_percent(scores.errors_rejected)} of the {_percent(scores.error_share)} that are "
        f"errors, {_percent(scores.right_rejected)} of the others",
    )
    say(f"bundle: {out}")
    if as_json:
        from dataclasses import asdict

        print_json(
            {"bundle": str(out), "held_out": asdict(scores), "result": made.result.to_json()}
        )


def _percent(share: float | None) -> str:
    return "—" if share is None else f"{100 * share:.1f} %"
