"""`decrop certify`: certificates for a bundle, or for a classifier without a denoiser."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from decrop.cli.options import AsJson, Assignments, ClassifierWeights, DatasetPath
from decrop.cli.output import accuracy_table, console, print_json, progress_bars
from decrop.config import TrialConfig


def certify(
    target: Annotated[
        str,
        typer.Argument(
            help="Folder of a bundle; or settings (digits, cifar10, a YAML file) whose classifier "
            "is certified without a denoiser."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where to write one row an image.")] = Path(
        "certificates.tsv"
    ),
    assignments: Assignments = None,
    dataset_path: DatasetPath = None,
    weights: ClassifierWeights = None,
    as_json: AsJson = False,
) -> None:
    """Certify test images anew, with other sample sizes, images or radii if so wished.

    Writes one row an image: idx, label, predict (-1 where it abstains), radius, correct, time.

    Example: [bold]decrop certify runs/digits/bundle --set
    certification.estimation_samples=10000[/bold]
    """
    import torch

    from decrop.bundle import load_bundle
    from decrop.cache import ContentCache
    from decrop.certification import certificate_table, local_sampler
    from decrop.cli.settings import change, load_trial
    from decrop.data.datasets import load_dataset
    from decrop.data.limited import evenly_spaced
    from decrop.files import write_whole
    from decrop.inputs import load_inputs
    from decrop.result import Scores
    from decrop.smoothing.execution import resolve_device

    if Path(target).is_dir():
        bundle = load_bundle(Path(target), classifier_weights=weights)
        config = change(bundle.config, assignments or [])
        if dataset_path is not None:
            config = change(config, [f"dataset.path={dataset_path}"])
        network: torch.nn.Module = bundle.network
        class_count = len(bundle.class_names)
        images = evenly_spaced(load_dataset(config.dataset).test, config.certification.test_images)
    else:
        config = load_trial(target, assignments or [])
        with TemporaryDirectory() as cache:
            device = resolve_device(config.execution.device)
            inputs = load_inputs(config, ContentCache(Path(cache)), device)
        network, class_count, images = inputs.classifier, inputs.classifier.class_count, inputs.test
    with progress_bars() as bar:
        table = certificate_table(
            config,
            network,
            images,
            split="test",
            class_count=class_count,
            estimation_samples=config.certification.estimation_samples,
            make_sampler=local_sampler(config),
            on_certified=bar("certifying, noise draws"),
        )
    write_whole(out, table.write_tsv)
    scores = Scores.of(table, config.certification.radii)
    title = _title(config)
    console.print(accuracy_table(title, {target: scores}))
    console.print(f"certificates: {out}", soft_wrap=True, highlight=False)
    if as_json:
        print_json({"certificates": str(out), "certified_accuracy": scores.certified_accuracy})


def _title(config: TrialConfig) -> str:
    return (
        f"Certified accuracy on test images, % (95 % interval), σ = {config.sigma:g}, "
        f"N = {config.certification.estimation_samples}"
    )
