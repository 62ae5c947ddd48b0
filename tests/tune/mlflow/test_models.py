"""MLflow models are protected where they load without unpickling, and refused where not."""

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from decrop.classifiers.sources import PROGRAM
from decrop.config import ClassifierSettings
from decrop.data.datasets import Dataset
from tests.decrop.classifiers.factories import make
from tests.decrop.tiny import random_images, tiny_dataset
from tests.refusals import one_line
from tune.mlflow.models import model_program

DATA = tiny_dataset(torch.arange(8) % 4, class_count=4, images=random_images(8))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tracking store of its own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def logged(serialization_format: str) -> str:
    example = np.zeros((2, 1, 6, 6), dtype=np.float32)
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    with mlflow.start_run():
        info = mlflow.pytorch.log_model(
            make().eval(),
            name="model",
            input_example=example,
            serialization_format=serialization_format,
            pip_requirements=["torch"],
        )
    return str(info.model_uri)


def settings(uri: str) -> ClassifierSettings:
    return ClassifierSettings(source=uri)


def refusal(uri: str, dataset: Dataset = DATA) -> str:
    return one_line(model_program, settings(uri), dataset)


@pytest.mark.slow
@pytest.mark.usefixtures("runs")
def test_a_program_is_loaded() -> None:
    found = model_program(settings(logged("pt2")), DATA)
    assert found.architecture == PROGRAM
    images = torch.rand(3, 1, 6, 6)
    torch.testing.assert_close(found.module(images), make().eval()(images))


@pytest.mark.usefixtures("runs")
def test_a_pickle_is_refused() -> None:
    message = refusal(logged("pickle"))
    assert "would have to be unpickled" in message and "serialization_format='pt2'" in message


@pytest.mark.usefixtures("runs")
def test_what_is_not_there_is_named() -> None:
    assert "models:/nothing/1 cannot be downloaded" in refusal("models:/nothing/1")


@pytest.mark.usefixtures("runs")
def test_a_model_of_other_images_is_refused() -> None:
    larger = tiny_dataset(torch.arange(8) % 4, class_count=4, images=random_images(8, size=8))
    uri = logged("pt2")
    message = refusal(uri, larger)
    assert message.startswith(f"classifier.source: {uri}") and "1x6x6" in message


def test_schemes_are_registered() -> None:
    document = tomllib.loads(Path("pyproject.toml").read_text())
    points = document["project"]["entry-points"]["decrop.classifier_sources"]
    assert set(points) == {"models", "runs"}
    for name, value in points.items():
        assert EntryPoint(name, value, "decrop.classifier_sources").load() is model_program
