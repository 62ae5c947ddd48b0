"""What knowing answers only costs: a denoiser for an AlexNet, white and black box.

    python -m tests.benchmarks.black_box
    python -m tests.benchmarks.black_box --dataset PATH/TO/cifar10 --target-epochs 3

An AlexNet is trained, and served by `mlflow models serve` in a process of its own. One denoiser is
trained through the AlexNet itself, others through surrogates stolen from its answers; all are
certified on the AlexNet with the same noise, the latter over HTTP. Without files the images are
scikit-learn's digits, enlarged to 16x16 pixels.
"""

import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from decrop.black_box import QueryLedger
from decrop.cache import ContentCache
from decrop.classifiers.classifier import Classifier
from decrop.config import TrialConfig
from decrop.data.datasets import load_dataset
from decrop.documents import merge, trial_config
from decrop.files import read_json
from decrop.smoothing.execution import resolve_device
from decrop.trial.folder import TrialFolder
from decrop.trial.inputs import TrialInputs
from decrop.trial.prepare import load_inputs
from decrop.trial.result import TrialResult
from decrop.trial.run import certify_undefended, run_trial
from tests.mlflow_server.processes import free_port
from tests.tune.mlflow.test_registry import process, served_model_command

console = Console(width=120)

SHARED: dict[str, Any] = {
    "sigma": 0.25,
    "classifier": {"source": "alexnet"},
    "denoiser": {"depth": 6, "channels": 24},
    "boundary": {"steps": 10},
    "interpolation": {"steps": 20, "learning_rate": 0.005},
    "training": {
        "epochs": 12,
        "discriminator_epochs": 4,
        "batch_size": 100,
        "learning_rate": 2e-3,
        "evaluations": 1,
    },
    "certification": {
        "procedure": "fixed",
        "selection_samples": 20,
        "test_images": 100,
        "radii": [0.0, 0.1, 0.25],
    },
    "execution": {"precision": "fp32", "training_precision": "fp32", "chunk_size": 20},
}
DIGITS: dict[str, Any] = {
    "limited": {"fraction": 0.25},
    "classifier": {"mean": [0.3], "std": [0.35]},
    "boundary": {"epsilon": 0.1, "step_size": 0.03},
    "training": {"augmentation": {"crop_padding": 2, "flip_probability": 0.0}},
}
CIFAR10: dict[str, Any] = {"limited": {"fraction": 0.01}}


def main(
    dataset: Annotated[
        Path | None, typer.Option(help="Folder of CIFAR-10; digits where not given.")
    ] = None,
    target_epochs: Annotated[int, typer.Option(help="Of the AlexNet.")] = 6,
    surrogates: Annotated[list[str] | None, typer.Option("--surrogate")] = None,
    queries: Annotated[int, typer.Option(help="Images asked about for a surrogate.")] = 2000,
    surrogate_epochs: Annotated[int, typer.Option(help="Of each surrogate.")] = 15,
    samples: Annotated[int, typer.Option(help="N of the certificates.")] = 100,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Print certified accuracies of the AlexNet behind denoisers, white box beside black box."""
    device = resolve_device("auto")
    rows: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        cache = ContentCache(folder / "cache")
        white = _white_box(dataset, folder, target_epochs, samples)
        started = time.monotonic()
        inputs = load_inputs(white, cache, device)
        console.print(f"AlexNet trained in {time.monotonic() - started:.0f} s", highlight=False)
        bare = TrialFolder(folder / "bare")
        certify_undefended(white, inputs, bare)
        rows["no denoiser"] = _row(bare)
        rows["white box"] = _trained(white, inputs, folder / "white", cache)
        with served(inputs.classifier, white, folder / "model") as url:
            for architecture in surrogates or ["half_alexnet"]:
                crop = white.training.augmentation
                surrogate = {
                    "architecture": architecture,
                    "queries": queries,
                    "epochs": surrogate_epochs,
                    "crop_padding": crop.crop_padding,
                    "flip_probability": crop.flip_probability,
                }
                black = _black_box(white, url, surrogate)
                ledger = folder / architecture / "queries.json"
                stolen = load_inputs(black, cache, device, ledger=ledger)
                for_surrogate = QueryLedger(ledger).spent().asked
                row = _trained(black, stolen, folder / architecture / "trial", cache)
                row["agreement"] = stolen.agreement
                row["queries"] = [for_surrogate, QueryLedger(ledger).spent().asked - for_surrogate]
                rows[f"black box, {architecture}"] = row
    console.print(_table(rows, white))
    if as_json:
        print(json.dumps(rows))


def _white_box(dataset: Path | None, folder: Path, target_epochs: int, samples: int) -> TrialConfig:
    if dataset is None:
        _write_digits(folder / "digits")
        data = {**DIGITS, "dataset": {"name": "parquet", "path": str(folder / "digits")}}
    else:
        data = {**CIFAR10, "dataset": {"name": "cifar10", "path": str(dataset)}}
    training = {
        "epochs": target_epochs,
        "learning_rate": 3e-3,
        "precision": "auto",
        "augmentation": "none" if dataset is None else "crop_and_flip",
    }
    given = {
        "classifier": {"training": training},
        "certification": {"estimation_samples": samples},
    }
    return trial_config(merge(merge(SHARED, data), given), source="benchmark")


def _black_box(white: TrialConfig, url: str, surrogate: dict[str, Any]) -> TrialConfig:
    document = white.model_dump(mode="json")
    document["classifier"] = {"source": url, "surrogate": surrogate}
    return trial_config(document, source="benchmark")


def _trained(
    config: TrialConfig, inputs: TrialInputs, path: Path, cache: ContentCache
) -> dict[str, Any]:
    folder = TrialFolder(path)
    for _ in run_trial(config, inputs, folder, cache, split="test"):
        pass
    return _row(folder)


def _row(folder: TrialFolder) -> dict[str, Any]:
    result = TrialResult.from_json(read_json(folder.result_path))
    return {
        "certified_accuracy": result.scores.certified_accuracy,
        "average_certified_radius": result.scores.average_certified_radius,
        "clean_accuracy": result.clean_accuracy,
    }


def _write_digits(folder: Path) -> None:
    digits = load_dataset(trial_config({"dataset": {"name": "digits"}}, source="digits").dataset)
    folder.mkdir()
    for split, source in (("train", digits.train), ("test", digits.test)):
        images = source.images(torch.arange(len(source.labels)))[:, 0].numpy()
        encoded = []
        for pixels in images:
            file = io.BytesIO()
            enlarged = Image.fromarray(pixels).resize((16, 16), Image.Resampling.BILINEAR)
            enlarged.save(file, "png")
            encoded.append(file.getvalue())
        labels = source.labels.numpy().astype(np.int8)
        table = pa.table({"image": encoded, "label": labels})
        table = table.replace_schema_metadata({"classes": ",".join("0123456789")})
        pq.write_table(table, folder / f"{split}.parquet")


@contextmanager
def served(classifier: Classifier, config: TrialConfig, folder: Path) -> Iterator[str]:
    """Serve a classifier by MLflow, as a program that holds no pickle, and yield its URL."""
    import mlflow.pytorch

    shape = load_dataset(config.dataset).train.shape
    mlflow.pytorch.save_model(
        classifier.cpu(),
        str(folder),
        input_example=np.zeros((2, *shape), dtype=np.float32),
        serialization_format="pt2",
        pip_requirements=["torch"],
    )
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = served_model_command(str(folder), port)
    with process(command, f"{url}/ping", MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false"):
        yield f"{url}/invocations"


def _table(rows: dict[str, dict[str, Any]], config: TrialConfig) -> Table:
    settings = config.certification
    table = Table(
        title=f"AlexNet on {config.dataset.name}: certified accuracy in %, {settings.test_images} "
        f"test images, σ = {config.sigma:g}, N = {settings.estimation_samples}"
    )
    table.add_column("denoiser trained through")
    for radius in settings.radii:
        table.add_column(f"r = {radius:g}", justify="right")
    for head in ("average radius", "clean", "agreement", "queries"):
        table.add_column(head, justify="right")
    for name, row in rows.items():
        agreement, queries = row.get("agreement"), row.get("queries")
        table.add_row(
            name,
            *(f"{100 * accuracy:.1f}" for accuracy in row["certified_accuracy"].values()),
            f"{row['average_certified_radius']:.3f}",
            f"{100 * row['clean_accuracy']:.1f}",
            "" if agreement is None else f"{100 * agreement:.1f} %",
            "" if queries is None else " + ".join(f"{number:,}" for number in queries),
        )
    return table


if __name__ == "__main__":
    typer.run(main)
