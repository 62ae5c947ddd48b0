"""Classifiers trained for certification beside a denoiser, under every certificate.

    python -m tests.benchmarks.trained_classifiers --dataset-path CIFAR10 \
        --classifier RESNET20.safetensors --out FOLDER [--bundle DENOISER --rejecting BUNDLE]

Fine-tunes a plain ResNet-20 with each objective (preset classifier_cifar10_resnet20) and certifies
test images: CERTIFY and all forms of T-CERTIFY from the same draws, and the adaptive procedure from
these and some more. `--bundle` is a denoiser's, `--rejecting` the same with a rejector (`decrop
rejector train`); they are certified on the same images. FOLDER has the certificates of each, which
`decrop compare gaussian.adaptive_cohen.tsv …` compares. What was done by an earlier, interrupted
command in the folder is not done again.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from torch import nn

from decrop.bundle import load_bundle
from decrop.classifiers.load import untrained_classifier
from decrop.cli.options import change, load_trial
from decrop.cli.output import console, progress_bars
from decrop.config import TrialConfig
from decrop.data.datasets import load_dataset
from decrop.data.limited import LabelledImages, evenly_spaced
from decrop.files import write_json
from decrop.training.folder import ClassifierFolder
from decrop.training.trained_classifier import train_classifier
from decrop.trial.certify import (
    CertificationTask,
    certify,
    with_recorded_batch_size,
)

SELECTION_SAMPLES = 100
OBJECTIVES = ("gaussian", "adre_reg", "smooth_adv", "adre_adv")
CERTIFICATES = {
    "CERTIFY": ("fixed", "cohen"),
    "T-CERTIFY, published": ("fixed", "t_certify_published"),
    "T-CERTIFY, preselected": ("fixed", "t_certify_preselected"),
    "T-CERTIFY, grid": ("fixed", "t_certify_grid"),
    "adaptive": ("adaptive", "cohen"),
}
REJECTION = {"rejection": ("fixed", "rejection")}


def certified(
    config: TrialConfig,
    network: nn.Module,
    images: LabelledImages,
    certificates: dict[str, tuple[str, str]],
    counts: Path,
    *,
    class_count: int,
) -> Iterator[dict[str, Any]]:
    """Yield a row for each certificate, all from the draws that `counts` keeps."""
    for name, (procedure, certificate) in certificates.items():
        chosen = change(
            config,
            [f"certification.procedure={procedure}", f"certification.certificate={certificate}"],
        )
        task = CertificationTask(network, images, "test", class_count)
        chosen = with_recorded_batch_size(chosen, task, counts.with_suffix(".batch"))
        with progress_bars() as bars:
            found = certify(
                chosen,
                task,
                estimation_samples=chosen.certification.most_estimation_samples,
                journal=counts,
                hooks=bars.hooks(f"{counts.stem}, {name}"),
            )
        table, scores = found.table, found.scores
        table.write(counts.with_suffix(f".{procedure}_{certificate}.tsv"))
        assert table.samples is not None
        yield {
            "certificate": name,
            "certified_accuracy": scores.certified_accuracy,
            # The adaptive procedure rounds radii down to a grid: its mean is not set beside these.
            "average_certified_radius": None
            if procedure == "adaptive"
            else scores.average_certified_radius,
            "samples_an_image": float(table.samples.mean()),
        }


def main(
    dataset_path: Annotated[Path, typer.Option(help="Folder of CIFAR-10.")],
    classifier: Annotated[Path, typer.Option(help="Weights of the plain ResNet-20.")],
    out: Annotated[Path, typer.Option(help="Folder for trainings, counts and table.")],
    bundle: Annotated[Path | None, typer.Option(help="Of a denoiser.")] = None,
    rejecting: Annotated[Path | None, typer.Option(help="The same with a rejector.")] = None,
    epochs: Annotated[int, typer.Option(help="Epochs of each training.")] = 3,
    images: Annotated[int, typer.Option(help="Test images.")] = 400,
    samples: Annotated[int, typer.Option(help="Most draws of an image, adaptively.")] = 2000,
    fixed_samples: Annotated[int, typer.Option(help="Draws of an image otherwise.")] = 1000,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train, certify, and print one row a model and certificate."""
    dataset_setting = f"dataset.path={dataset_path}"
    certification = [
        f"certification.test_images={images}",
        f"certification.max_samples={samples}",
        f"certification.estimation_samples={fixed_samples - SELECTION_SAMPLES}",
        f"certification.selection_samples={SELECTION_SAMPLES}",
        dataset_setting,
    ]
    out.mkdir(parents=True, exist_ok=True)
    execution = f"execution.device={device}"
    preset = load_trial("classifier_cifar10_resnet20", [dataset_setting, execution])
    dataset = load_dataset(preset.dataset)
    test = evenly_spaced(dataset.test, images)
    rows: list[dict[str, Any]] = []

    def add(
        name: str,
        config: TrialConfig,
        network: nn.Module,
        certificates: dict[str, tuple[str, str]] = CERTIFICATES,
        **more: Any,
    ) -> None:
        counts = out / f"{name.replace(' ', '_')}.counts"
        class_count = dataset.class_count
        found = certified(config, network, test, certificates, counts, class_count=class_count)
        rows.extend({"model": name, **row, **more} for row in found)
        write_json(out / "rows.json", rows)

    def ready(config: TrialConfig, weights: Path) -> TrialConfig:
        given = ["classifier.training=null", f"classifier.weights={weights}"]
        return change(config, [*given, *certification])

    start = ready(preset, classifier)
    add("plain", start, untrained_classifier(start.classifier, dataset))
    for objective in OBJECTIVES:
        config = change(
            preset,
            [
                f"classifier.training.objective={objective}",
                f"classifier.training.initial_weights={classifier}",
                f"classifier.training.epochs={epochs}",
            ],
        )
        folder = ClassifierFolder(out / objective)
        with progress_bars() as bars:
            report = train_classifier(config, folder, hooks=bars.hooks())
        trained = ready(config, folder.weights_path)
        network = untrained_classifier(trained.classifier, dataset)
        add(objective, trained, network, training_seconds=report["seconds"])
    for name, path, certificates in (
        ("denoiser", bundle, CERTIFICATES),
        ("denoiser with rejector", rejecting, REJECTION),
    ):
        if path is not None:
            loaded = load_bundle(path)
            config = change(loaded.config, [*certification, execution])
            add(name, config, loaded.network, certificates)
    console.print(table_of(rows), highlight=False)
    print(json.dumps(rows))


def table_of(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text: certified accuracy in %, average certified radius in pixels."""
    columns = [
        {
            "model": row["model"],
            "certificate": row["certificate"],
            **{f"r = {r}": f"{100 * a:.1f}" for r, a in row["certified_accuracy"].items()},
            "ACR": "" if (acr := row["average_certified_radius"]) is None else f"{acr:.4f}",
            "samples": f"{row['samples_an_image']:.0f}",
        }
        for row in rows
    ]
    return pd.DataFrame(columns).to_string(index=False)


if __name__ == "__main__":
    typer.run(main)
