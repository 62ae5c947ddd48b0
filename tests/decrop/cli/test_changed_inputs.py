"""Commands that go on refuse other weights or other data at the paths of their settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from decrop.cli.main import run
from decrop.networks.registry import build_classifier_network
from decrop.training.classifier import ClassifierTrainer
from decrop.training.denoiser import DenoiserTrainer
from tests.commands import contents, decrop, set_options
from tests.decrop.black_box.functions import URL, InProcess, serve
from tests.decrop.data.test_datasets import write_parquet
from tests.decrop.digits_trial import SHORT

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 3
DATA = (
    "dataset.name=parquet",
    "dataset.path=data",
    "limited.fraction=0.5",
    "limited.held_out_fraction=0.25",
)
STATISTICS = ("classifier.mean=[0.5]", "classifier.std=[0.5]")


def write_data(split: str, seed: int) -> None:
    count = 24
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 8, 8), np.uint8)
    write_parquet(Path("data"), split, [i % CLASSES for i in range(count)], pixels)


def network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_classifier_network("small_cnn", image_channels=1, class_count=CLASSES)


def write_weights(path: str, seed: int) -> None:
    save_file(network(seed).state_dict(), path)


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    write_data("train", 1)
    write_data("test", 2)
    write_weights("w.safetensors", 3)


def interrupted(patch: pytest.MonkeyPatch, trainer: type, step: str, *command: str) -> None:
    """Run a command until its training has taken a step."""
    taken = getattr(trainer, step)
    steps: list[object] = []

    def once(self: Any) -> Any:
        if steps:
            raise KeyboardInterrupt
        steps.append(None)
        return taken(self)

    with patch.context() as patched:
        patched.setattr(trainer, step, once)
        assert run([*command]) == 130


def refusal(change: Callable[[], None], command: list[str]) -> str:
    """Change a file, let the command go on, and return what it says; it must touch nothing."""
    change()
    before = contents(Path("run"))
    ran = decrop(*command)
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
    assert contents(Path("run")) == before
    return ran.err


def test_training_a_denoiser(monkeypatch: pytest.MonkeyPatch) -> None:
    # The settings' own training gives way to weights.
    short = [item for item in SHORT if not item.startswith(("classifier.", "limited."))]
    settings = (
        *short,
        *DATA,
        *STATISTICS,
        "classifier.weights=w.safetensors",
        "classifier.training=null",
    )
    options = set_options(*settings)
    command = ["train", "digits", *options, "--out", "run"]
    interrupted(monkeypatch, DenoiserTrainer, "run_epoch", *command)
    said = refusal(lambda: write_weights("w.safetensors", 4), command)
    assert said.startswith("error: run/trial was begun with another classifier (")
    assert said.endswith("); put back what lay there, or begin anew in another folder.\n")
    write_weights("w.safetensors", 3)
    assert "other limited data (" in refusal(lambda: write_data("train", 5), command)
    write_data("train", 1)
    said = refusal(lambda: write_data("test", 6), command)
    assert "other test images (" in said and "limited data" not in said
    write_data("test", 2)
    assert run(command) == 0
    # Nor is a finished run taken for one with other test images.
    refusal(lambda: write_data("test", 6), command)


def test_training_a_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = (
        *DATA,
        *STATISTICS,
        "execution.device=cpu",
        "classifier.training.epochs=1",
        "classifier.training.batch_size=4",
        "classifier.training.initial_weights=w.safetensors",
    )
    options = set_options(*settings)
    command = ["classifier", "train", "digits", *options, "--out", "run"]
    interrupted(monkeypatch, ClassifierTrainer, "step", *command)
    said = refusal(lambda: write_weights("w.safetensors", 4), command)
    assert said.startswith("error: run was begun with other initial weights (")
    write_weights("w.safetensors", 3)
    assert "other training images (" in refusal(lambda: write_data("train", 5), command)
    write_data("train", 1)
    assert run(command) == 0


def test_stealing_a_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    from decrop.classifiers.classifier import Classifier

    serve(
        monkeypatch,
        InProcess(
            Classifier(
                network(3), architecture="small_cnn", mean=(0.5,), std=(0.5,), class_count=CLASSES
            )
        ),
    )
    settings = (
        *DATA,
        f"classifier.source={URL}",
        "classifier.training=null",
        "classifier.surrogate.architecture=small_cnn",
        "classifier.surrogate.queries=20",
        "classifier.surrogate.epochs=2",
        "execution.device=cpu",
    )
    options = set_options(*settings)
    command = ["classifier", "steal", "digits", *options, "--out", "run"]
    interrupted(monkeypatch, ClassifierTrainer, "step", *command)
    said = refusal(lambda: write_data("train", 5), command)
    assert said.startswith("error: run was begun with other limited data (")
    write_data("train", 1)
    assert run(command) == 0
