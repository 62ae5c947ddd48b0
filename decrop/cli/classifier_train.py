"""`decrop classifier train`: one training of a classifier."""

from typing import Annotated, Any

import typer

from decrop.cli.options import AsJson, Assignments, RunFolder
from decrop.cli.output import console, duration, print_json, progress_bars
from decrop.cli.tracking import Experiment, TrackingUri, tracked


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
    from decrop.classifier_run import ClassifierFolder, train_classifier
    from decrop.cli.settings import load_trial, run_folder

    config = load_trial(settings, assignments or [])
    folder = ClassifierFolder(run_folder(out, settings))
    console.print(f"folder: {folder.path}", soft_wrap=True, highlight=False)
    with tracked("classifier", folder.path, tracking_uri, experiment), progress_bars() as bars:
        report = train_classifier(config, folder, on_step=bars.counted("training, steps"))
    console.print(_summary(report), soft_wrap=True, highlight=False)
    console.print(
        f"certify it: decrop certify {folder.settings_path} --weights {folder.weights_path}",
        soft_wrap=True,
        highlight=False,
    )
    if as_json:
        print_json({"weights": str(folder.weights_path), "report": report})


def _summary(report: dict[str, Any]) -> str:
    trained = f"trained in {duration(report['seconds'])}"
    held_out = report["held_out"]
    if held_out is None:
        return f"{trained}; trained on all images, so there is none to score it on"
    return (
        f"{trained}; {held_out['images']} held-out images: clean accuracy "
        f"{100 * held_out['clean_accuracy']:.1f} %, with noise of sigma {report['sigma']:g} "
        f"{100 * held_out['noisy_accuracy']:.1f} %"
    )
