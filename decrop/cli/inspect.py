"""`decrop inspect`: classifier and denoiser as they are understood, to look at before a sweep."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from decrop.cli.options import AsJson, Assignments, QueryCount
from decrop.cli.output import (
    accuracy_cell,
    console,
    print_json,
    progress_bars,
    queries_shown,
    refuse_queries,
    say,
)
from decrop.errors import InputError
from decrop.wording import counted

if TYPE_CHECKING:
    from decrop.config import TrialConfig
    from decrop.trial.inspection import DenoiserInspection, Inspection


def inspect(
    target: Annotated[
        str,
        typer.Argument(
            help="Settings (digits, cifar10, a YAML file), or a classifier.source, whose other "
            "settings --set gives: resnet18, module:function, timm/NAME, torchvision/NAME, "
            "FILE.pt2, http(s)://HOST/PATH of an endpoint."
        ),
    ],
    assignments: Assignments = None,
    denoiser: Annotated[
        str | None,
        typer.Option(
            help="denoiser.source of one that is trained already, to look at, too; other settings "
            "of it by --set, such as denoiser.weights."
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="dataset.name, where the target is a classifier.")
    ] = None,
    dataset_path: Annotated[str | None, typer.Option(help="dataset.path.")] = None,
    split: Annotated[
        Literal["train", "test"],
        typer.Option(help="Whose images the accuracies are of; test data should choose nothing."),
    ] = "train",
    images: Annotated[
        int | None,
        typer.Option(min=1, help="How many, evenly spaced; 500, of an endpoint 50 by default."),
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Of noise, of each image and sigma.")] = 4,
    queries: QueryCount = None,
    as_json: AsJson = False,
) -> None:
    """Print what is understood of a classifier, and its accuracy under noise.

    Of a denoiser that is trained already it prints PSNR, and the accuracy behind it.

    Of an endpoint it says first how many images it asks for.

    Example: [bold]decrop inspect mymodels:resnet --dataset cifar10 --set
    classifier.arguments.depth=18[/bold]
    """
    from decrop.cache import ContentCache
    from decrop.data.datasets import load_dataset
    from decrop.data.limited import evenly_spaced
    from decrop.smoothing.backend import backend_of
    from decrop.smoothing.execution import resolve_device
    from decrop.trial.inputs import trained_denoiser
    from decrop.trial.inspection import inspect_classifier, most_inspection_queries
    from decrop.trial.prepare import protected_classifier

    given = list(assignments or [])
    if denoiser is not None:
        given.append(f"denoiser.source={denoiser}")
    config = _settings(target, given, dataset, dataset_path)
    refuse_queries(queries, asked=config.classifier.asked is not None)
    with console.status("loading data and classifier"), TemporaryDirectory() as cache:
        data = load_dataset(config.dataset)
        device = resolve_device(config.execution.device)
        classifier = protected_classifier(config, data, ContentCache(Path(cache)), device, queries)
        count = images or (500 if config.classifier.asked is None else 50)
        chosen = evenly_spaced(data.train if split == "train" else data.test, count)
        opened = None
        if config.denoiser.starts_trained:
            opened = trained_denoiser(config, chosen.images)
        elif denoiser is not None:
            raise InputError(
                f"--denoiser {denoiser}: it has random weights; give trained ones with --set "
                "denoiser.weights=FILE."
            )
    backend = backend_of(classifier)
    backend.announce(
        most_inspection_queries(len(chosen), draws),
        exact=True,
        say=say,
    )
    with queries_shown(classifier), progress_bars() as bars:
        found = inspect_classifier(
            config.classifier,
            config,
            classifier,
            chosen,
            split=split,
            draws=draws,
            denoiser=opened,
            on_sigma=bars.counted("classifying noisy images, standard deviations"),
        )
    console.print(_table(found))
    if found.denoiser is not None:
        console.print(_denoiser_table(found, found.denoiser))
    if as_json:
        print_json({**found.to_json(), **backend.spent_document()})


def _settings(
    target: str, assignments: list[str], dataset: str | None, dataset_path: str | None
) -> "TrialConfig":
    """Return the settings of a trial whose classifier is the target's."""
    from decrop.cli.options import change, load_trial
    from decrop.config import TrialConfig
    from decrop.config.classifier_source import AUTO, source_kind

    given = []
    if dataset is not None:
        given.append(f"dataset.name={dataset}")
    if dataset_path is not None:
        given.append(f"dataset.path={dataset_path}")
    try:
        source_kind(target)
    except ValueError:
        return load_trial(target, [*given, *assignments])
    if target == AUTO:
        return change(TrialConfig(), [*given, *assignments])
    return change(TrialConfig(), [*given, *assignments, f"classifier.source={target}"])


def _table(found: "Inspection") -> Table:
    table = Table(title=f"Classifier {found.source}", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    network = found.architecture
    if found.arguments:
        network += " with " + ", ".join(f"{k}={v!r}" for k, v in found.arguments.items())
    channels, *size = found.image_shape
    rows: dict[str, str | Text] = {"network": network}
    if found.parameters is not None:
        rows["parameters"] = f"{found.parameters:,}"
    rows["images"] = f"{channels} x {' x '.join(map(str, size))}, {found.classes} classes"
    rows |= _input_rows(found)
    rows |= {
        "accuracy, %": f"of {counted(found.images, 'image')} of the {found.split} split",
        "  without noise": accuracy_cell(found.clean_accuracy, found.images),
        **{
            f"  σ = {sigma}": f"{100 * share:.1f}, {counted(found.draws, 'draw')} an image"
            for sigma, share in found.noisy_accuracy.items()
        },
        "speed": f"{found.samples_per_second:,.0f} samples a second without a denoiser, in "
        f"{found.precision} on {found.device}",
        "memory layout": found.layout,
    }
    if found.trained_through is False:
        rows["denoisers"] = "no gradient reaches its images: none can be trained through it"
    if found.other_input is not None:
        rows["range of pixels?"] = f"the network seems to take {found.other_input}"
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _denoiser_table(found: "Inspection", denoiser: "DenoiserInspection") -> Table:
    told = "told sigma" if denoiser.takes_sigma else "not told sigma"
    table = Table(
        title=f"Denoiser {denoiser.source}: {denoiser.network}, {denoiser.parameters:,} "
        f"parameters, {told}",
        caption=f"trained before on {denoiser.pretrained_on or 'images that are not stated'}; "
        f"{denoiser.samples_per_second:,.0f} samples a second before the classifier",
    )
    for heading in ("σ", "PSNR, dB", "without it", "accuracy, %", "without it"):
        table.add_column(heading, justify="right")
    for sigma, (before, after) in denoiser.psnr.items():
        low, high = denoiser.sigma_range or (0.0, float("inf"))
        outside = "" if low <= float(sigma) <= high else " (not made for it)"
        table.add_row(
            f"{sigma}{outside}",
            f"{after:.1f}",
            f"{round(before, 1) + 0.0:.1f}",
            f"{100 * denoiser.noisy_accuracy[sigma]:.1f}",
            f"{100 * found.noisy_accuracy[sigma]:.1f}",
        )
    return table


def _input_rows(found: "Inspection") -> dict[str, str]:
    """Return what is done to images and read of the network, where that is known."""
    if found.mean is None or found.std is None:
        return {}
    channels, *size = found.image_shape
    resized = "" if list(found.input_size) == size else ", resized (bilinear, antialiased)"
    order = f", {found.channel_order}" if channels == 3 else ""
    unchanged = set(found.mean) == {0.0} and set(found.std) == {1.0}
    own = " (none: it standardises for itself)" if unchanged else ""
    return {
        "input": f"{channels} x {' x '.join(map(str, found.input_size))}{order}{resized}",
        "mean": ", ".join(f"{value:.4g}" for value in found.mean) + own,
        "standard deviation": ", ".join(f"{value:.4g}" for value in found.std),
        "features": f"{found.features}, the input of {found.feature_layer}",
    }
