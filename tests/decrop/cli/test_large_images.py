"""Images of ImageNet's size and classes go through inspect, train and certify, a few of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import save_file

from decrop._torchvision import torchvision
from decrop.cli.main import run

CLASSES = 1_000


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, classes in (("train", CLASSES), ("test", 2)):
        for number in range(classes):
            folder = tmp_path / "data" / split / f"n{number:04}"
            folder.mkdir(parents=True)
            colours = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)
            Image.fromarray(colours.repeat(32, 0).repeat(32, 1)).save(folder / "0.png")
    weights = tmp_path / "resnet50.safetensors"
    save_file(torchvision.models.resnet50().state_dict(), weights)
    settings = {
        "dataset": {"name": "image_folder", "path": str(tmp_path / "data")},
        "limited": {"fraction": 0.004, "held_out_fraction": 0.5},
        "classifier": {
            "source": "torchvision/resnet50",
            "weights": str(weights),
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
        "boundary": {"steps": 1},
        "interpolation": {"steps": 1},
        "denoiser": {"source": "dncnn", "depth": 3, "channels": 4},
        "training": {"epochs": 1, "discriminator_epochs": 1, "batch_size": 2},
        "certification": {
            "selection_samples": 4,
            "max_samples": 16,
            "radius_step": 0.01,
            "held_out_samples": 12,
            "pruning_samples": 12,
            "test_images": 2,
        },
        "execution": {"chunk_size": 4, "chunks_per_batch": 1},
    }
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_images_of_imagenets_size(
    settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(settings), "--images", "2", "--draws", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["image_shape"] == [3, 224, 224]
    assert found["parameters"] == 25_557_032
    trained, again = tmp_path / "trained", tmp_path / "again.tsv"
    assert run(["train", str(settings), "--out", str(trained)]) == 0
    data = ["--dataset-path", str(tmp_path / "data")]
    asked = ["certify", str(trained / "bundle"), "--trust-code", *data, "--out", str(again)]
    assert run(asked) == 0
    assert len(again.read_text().splitlines()) >= 3
