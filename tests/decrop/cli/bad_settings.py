"""Mistakes that a user can make in the settings of a trial."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from decrop.networks.registry import build_classifier_network

# Arguments and what the message must name.
BAD_ARGUMENTS = {
    "unknown key": (
        ["digits", "--set", "training.epoch=3"],
        ["--set", "training.epoch is not a setting", "training.epochs"],
    ),
    "key without a value": (["digits", "--set", "sigma"], ["--set 'sigma'", "KEY=VALUE"]),
    "bad value": (["digits", "--set", "sigma=-1"], ["--set", "sigma = -1", "greater than 0"]),
    "value of another type": (
        ["digits", "--set", "training.epochs=many"],
        ["--set", "training.epochs = 'many'", "integer"],
    ),
    "infinite value": (["digits", "--set", "sigma=.inf"], ["--set", "sigma"]),
    "unknown preset": (["digit"], ["'digit'", "digits"]),
    "missing file": (["nowhere.yaml"], ["nowhere.yaml does not exist"]),
    "not YAML": (["broken.yaml"], ["broken.yaml, line 1", "not YAML"]),
    "not settings": (["list.yaml"], ["list.yaml must hold a mapping"]),
    "unknown key in the file": (["unknown.yaml"], ["unknown.yaml", "sigmas", "nearest: sigma"]),
    "missing dataset path": (
        ["cifar10", "--set", "dataset.path=nowhere", "--set", "classifier.weights=fits"],
        ["dataset.path", "nowhere is not a folder"],
    ),
    "wrong columns": (
        ["cifar10", "--set", "dataset.path=columns", "--set", "classifier.weights=fits"],
        ["dataset.path", "train.parquet has the columns img, label"],
    ),
    "no classifier": (
        ["digits", "--set", "classifier.training=null"],
        ["--set classifier.weights=FILE", "--set classifier.training"],
    ),
    "missing weights": (
        ["digits", "--set", "classifier.training=null", "--set", "classifier.weights=nowhere"],
        ["classifier.weights: nowhere does not exist"],
    ),
    "weights that do not fit": (
        ["digits", "--set", "classifier.training=null", "--set", "classifier.weights=colour"],
        ["classifier.weights: colour does not fit small_cnn", "maps.0.weight"],
    ),
    "weights that fit nothing": (
        [
            "digits",
            *("--set", "classifier={weights: colour, source: auto}"),
        ],
        ["classifier.weights: colour fits none of small_cnn"],
    ),
    "weights that are no weights": (
        ["digits", "--set", "classifier.training=null", "--set", "classifier.weights=list.yaml"],
        ["classifier.weights: list.yaml is not a safetensors file"],
    ),
    "too few samples to certify anything": (
        [
            "digits",
            *("--set", "certification.procedure=fixed"),
            *("--set", "certification.estimation_samples=9"),
        ],
        ["estimation_samples (9) must be at least 10", "nothing can be certified"],
    ),
    "failure probability that sums do not keep": (
        ["digits", "--set", "certification.failure_probability=1e-40"],
        ["certification.failure_probability = 1e-40", "greater than or equal to 0.000000000001"],
    ),
    "noise too small for any radius": (
        ["digits", "--set", "sigma=1e-9"],
        ["sigma (1e-09) is so small", "no radius above 0 can be certified"],
    ),
    "fraction that leaves a class empty": (
        ["digits", "--set", "limited.fraction=0.001"],
        ["limited.fraction 0.001", "leaves all classes together 1 image"],
    ),
}


def write_bad_files(folder: Path) -> None:
    """Write the files that the arguments name."""
    (folder / "broken.yaml").write_text("sigma: [0.25")
    (folder / "list.yaml").write_text("- sigma")
    (folder / "unknown.yaml").write_text("sigmas: 0.25")
    (folder / "columns").mkdir(exist_ok=True)
    columns = {"img": [b""], "label": [0]}
    for split in ("train", "test"):
        pq.write_table(pa.table(columns), folder / "columns" / f"{split}.parquet")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_classifier_network("small_cnn", image_channels=3, class_count=10)
    save_file(network.state_dict(), folder / "colour")
