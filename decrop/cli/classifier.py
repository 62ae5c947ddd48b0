"""`decrop classifier`: trains the classifier itself, or a surrogate of one behind an endpoint."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from decrop.cli.options import AsJson, Assignments, RunFolder
from decrop.cli.output import accuracy_cell, duration, print_json, progress_bars, say
from decrop.cli.tracking import Experiment, TrackingUri, tracked
from decrop.wording import counted


def steal(
    settings: Annotated[
        str,
        typer.Argument(
            help="A preset or YAML file of settings; classifier.source is the URL of an endpoint, "
            "classifier.surrogate how it is imitated."
        ),
    ],
    assignments: Assignments = None,
    out: RunFolder = None,
    as_json: AsJson = False,
) -> None:
    """Train a network on an endpoint's answers, to train denoisers through it.

    Asks about the limited images, moved and mixed ones, and generated ones, once each. Writes
    weights.safetensors, settings.yaml, report.json (how often both agree on held-out images) and
    answers. The same command goes on after it was killed and asks nothing twice.

    Example: [bold]decrop classifier steal cifar10 --set classifier.source=http://…/invocations
    --set classifier.surrogate.architecture=half_alexnet --out runs/surrogate[/bold]
    """
    from decrop.cli.options import load_trial, run_folder
    from decrop.training.folder import ClassifierFolder
    from decrop.training.surrogate import steal_classifier

    config = load_trial(settings, assignments or [])
    folder = ClassifierFolder(run_folder(out, settings))
    say(f"folder: {folder.path}")

    with progress_bars() as bars:
        report = steal_classifier(config, folder, hooks=bars.hooks())
    say(_steal_summary(report))
    weights = f"classifier.surrogate.weights={folder.weights_path}"
    settings_and_weights = shlex.join([str(folder.settings_path), "--set", weights])
    say(f"train through it: decrop train {settings_and_weights}")
    if as_json:
        print_json({"weights": str(folder.weights_path), "report": report})


def _steal_summary(report: dict[str, Any]) -> str:
    held_out = report["held_out"]
    gives = "labels only" if report["labels_only"] else "probabilities"
    cell = accuracy_cell(held_out["agreement"], held_out["images"])
    return (
        f"asked about {counted(report['asked_now'], 'image')} ({report['queries']:,} in all), "
        f"which gave {gives}; trained in {duration(report['seconds'])}\n"
        f"agreement with the endpoint on {counted(held_out['images'], 'held-out image')} {cell} "
        f"%; accuracy there {100 * held_out['accuracy']:.1f} %, the endpoint's "
        f"{100 * held_out['target_accuracy']:.1f} %"
    )


def train(
    settings: Annotated[
        str,
        typer.Argument(
            help="classifier_digits, classifier_cifar10_adre_reg and other presets, or a YAML file "
            "of settings with classifier.training."
        ),
    ],
    assignments: Assignments = None,
    out: RunFolder = None,
    tracking_uri: TrackingUri = None,
    experiment: Experiment = None,
    as_json: AsJson = False,
) -> None:
    """Train a classifier: plainly, with noise, or with ADRE, SmoothAdv or both.

    Writes weights.safetensors, settings.yaml and report.json (losses, and clean and noisy accuracy
    on held-out training images). No test image is read. The same command goes on after it was
    killed.

    Example: [bold]decrop classifier train classifier_digits --out runs/classifier[/bold]
    """
    from decrop.cli.options import load_trial, run_folder
    from decrop.training.folder import ClassifierFolder
    from decrop.training.trained_classifier import train_classifier

    config = load_trial(settings, assignments or [])
    folder = ClassifierFolder(run_folder(out, settings))
    say(f"folder: {folder.path}")
    with tracked("classifier", folder.path, tracking_uri, experiment), progress_bars() as bars:
        report = train_classifier(config, folder, hooks=bars.hooks())
    say(_summary(report))
    paths = [str(folder.settings_path), "--weights", str(folder.weights_path)]
    say(f"certify it: decrop certify {shlex.join(paths)}")
    if as_json:
        print_json({"weights": str(folder.weights_path), "report": report})


def _summary(report: dict[str, Any]) -> str:
    trained = f"trained in {duration(report['seconds'])}"
    held_out = report["held_out"]
    if held_out is None:
        return f"{trained}; trained on all images, so there is none to score it on"
    return (
        f"{trained}; {counted(held_out['images'], 'held-out image')}: clean accuracy "
        f"{100 * held_out['clean_accuracy']:.1f} %, with noise of sigma {report['sigma']:g} "
        f"{100 * held_out['noisy_accuracy']:.1f} %"
    )


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="File of torch.save, or safetensors.")],
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; beside the checkpoint, as .safetensors, if not given."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn a checkpoint into a safetensors file of weights, and say what they fit.

    Of the checkpoint only tensors and plain values are read; no code of it runs. Weights are taken
    out of what was saved with them, prefixes that all names share are taken away, and names of
    common networks are put in place of others where order and shapes leave no doubt.

    Example: [bold]decrop classifier convert checkpoint.pth.tar --out resnet110.safetensors[/bold]
    """
    from decrop.classifiers.convert import convert as converted
    from decrop.errors import InputError
    from decrop.files import write_tensors

    target = checkpoint.with_suffix(".safetensors") if out is None else out
    if target.exists():
        raise InputError(f"--out {target} is there already; name another file.")
    found = converted(checkpoint)
    write_tensors(target, found.weights)
    fitting = found.source or "no network that is known here; name yours with classifier.source"
    lines = [*found.done, f"{target}: {counted(len(found.weights), 'tensor')}, which fit {fitting}"]
    settings = [f"classifier.weights={target}", *found.settings]
    lines.append(
        "use it: " + " ".join(f"--set {shlex.quote(assignment)}" for assignment in settings)
    )
    for line in lines:
        say(line)
    if as_json:
        print_json({"weights": str(target), "settings": settings, "done": found.done})


_HELP = """Train the classifier itself or a surrogate of one that only answers, or convert one.

Example: [bold]decrop classifier train classifier_digits --out runs/classifier[/bold]
"""

app = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode="rich")
app.command()(train)
app.command()(steal)
app.command()(convert)
