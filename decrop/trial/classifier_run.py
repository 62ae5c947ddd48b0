"""Training a classifier in a folder: checkpoint, weights and report."""

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from decrop.cache import Tensors
from decrop.config import TrialConfig
from decrop.data.datasets import load_dataset
from decrop.data.limited import LabelledImages, limited_data
from decrop.documents import read_yaml, trial_config
from decrop.errors import InputError
from decrop.files import (
    MOST_WEIGHTS_BYTES,
    read_json,
    require_regular,
    sha256_of_json,
    write_json,
    write_text,
    write_whole,
)
from decrop.seeds import torch_generator
from decrop.smoothing.execution import resolve_device, resolve_precision
from decrop.training.classifier import ClassifierTrainer
from decrop.training.loop import train
from decrop.training.trained_classifier import classifier_to_train
from decrop.trial.certify import clean_accuracy
from decrop.trial.folder import keep_inputs

# Noise draws of an image in its noisy accuracy.
_NOISE_DRAWS = 4
_BATCH = 500


class ClassifierFolder:
    """The files of one training of a classifier; any may be missing while it runs.

    Attributes:
        path: the folder.
        inputs_path: content hashes of what it is trained on and from, by role.
        settings_path: the settings, which `decrop certify` takes with the weights.
        checkpoint_path: the state to resume from, deleted at the end.
        history_path: one record an epoch, while it trains.
        weights_path: the trained weights.
        report_path: losses and accuracies, written last.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inputs_path = path / "inputs.json"
        self.settings_path = path / "settings.yaml"
        self.checkpoint_path = path / "checkpoint.pt"
        self.history_path = path / "history.json"
        self.weights_path = path / "weights.safetensors"
        self.report_path = path / "report.json"


def train_classifier(
    config: TrialConfig,
    folder: ClassifierFolder,
    *,
    on_step: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Train the classifier of a trial's settings and score it on held-out images.

    Training goes on from the folder's checkpoint; a finished one is not done again.

    Args:
        config: settings with `classifier.training`.
        folder: where everything is written.
        on_step: called with steps done and in all.

    Returns:
        the report: records of the epochs; sigma; clean and noisy accuracy of the classifier itself
        (no votes are taken) on the held-out images of the limited data, None where it was trained
        on them; hashes.

    Raises:
        InputError: the settings cannot be used, or the folder holds another training.
        TrainingDivergedError: the loss became NaN or infinite.
    """
    check_settings(folder, config)
    device = resolve_device(config.execution.device)
    dataset = load_dataset(config.dataset)
    given = classifier_to_train(config, dataset)
    hashes = {"training_images": given.images.content_hash()}
    if given.settings.initial_weights is not None:
        hashes["initial_weights"] = given.classifier.content_hash()
    if given.settings.trained_on != "all":
        # Some of them score it.
        hashes["limited_data"] = limited_data(dataset, config.limited).all.content_hash()
    keep_inputs(folder.inputs_path, hashes)
    write_settings(folder, config)
    origin = sha256_of_json(given.determined_by(device))
    if folder.report_path.exists():
        report: dict[str, Any] = read_json(folder.report_path)
        _check_origin(folder, report["origin"], origin)
        return report
    trainer = given.trainer(device)
    weights = train_in_folder(trainer, folder, origin, on_step=on_step)
    classifier = given.classifier
    classifier.network.load_state_dict(weights)
    held_out = None
    if given.settings.trained_on != "all":
        limited = limited_data(dataset, config.limited)
        images = limited.all.subset(limited.held_out_mask)
        held_out = {
            "images": len(images),
            "clean_accuracy": clean_accuracy(classifier, images, device),
            "noisy_accuracy": noisy_accuracy(
                classifier, images, sigma=given.sigma, seed=given.settings.seed, device=device
            ),
        }
    report = {
        "objective": given.settings.objective,
        "sigma": given.sigma,
        "training_images": len(given.images),
        "held_out": held_out,
        "epochs": [asdict(record) for record in trainer.history],
        "seconds": round(math.fsum(record.seconds for record in trainer.history), 3),
        "precision": resolve_precision(given.settings.precision, device),
        "device": device.type,
        "classifier": classifier.cpu().content_hash(),
        "origin": origin,
    }
    write_json(folder.report_path, report)
    folder.checkpoint_path.unlink(missing_ok=True)
    folder.history_path.unlink(missing_ok=True)
    return report


def train_in_folder(
    trainer: ClassifierTrainer,
    folder: ClassifierFolder,
    origin: str,
    *,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensors:
    """Train to the end, from the folder's checkpoint if there is one, and write the weights.

    Args:
        trainer: that has not taken a step.
        folder: of the training; the caller deletes the checkpoint.
        origin: hash of all that the weights depend on.
        on_step: called with steps done and in all.

    Returns:
        the weights, on the CPU.

    Raises:
        InputError: the checkpoint is of another origin.
        TrainingDivergedError: the loss became NaN or infinite.
    """
    if folder.checkpoint_path.exists():
        require_regular(folder.checkpoint_path, most_bytes=MOST_WEIGHTS_BYTES)
        checkpoint = torch.load(folder.checkpoint_path, map_location="cpu", weights_only=True)
        _check_origin(folder, checkpoint["origin"], origin)
        trainer.load_state_dict(checkpoint["trainer"])
    train(trainer, save=lambda: _save(folder, trainer, origin), on_step=on_step)
    weights = {name: tensor.cpu().contiguous() for name, tensor in trainer.weights().items()}
    write_whole(folder.weights_path, lambda temporary: save_file(weights, temporary))
    return weights


def noisy_accuracy(
    network: nn.Module, images: LabelledImages, *, sigma: float, seed: int, device: torch.device
) -> float:
    """Return the accuracy of a network on images with Gaussian noise, a mean over a few draws.

    Args:
        network: images [B, C, H, W] in [0,1] pixels to logits [B, K].
        images: to classify.
        sigma: standard deviation of the noise, in [0,1] pixels.
        seed: of the noise.
        device: where to compute.
    """
    network = network.to(device).eval()
    generator = torch_generator(seed, "noisy accuracy", device=device)
    correct = 0
    with torch.inference_mode():
        for _ in range(_NOISE_DRAWS):
            for pixels, labels in zip(
                images.images.split(_BATCH), images.labels.split(_BATCH), strict=True
            ):
                clean = pixels.to(device).float() / 255
                noise = torch.randn(clean.shape, generator=generator, device=device)
                predictions = network(clean + sigma * noise).argmax(1)
                correct += int((predictions == labels.to(device)).sum())
    return correct / (_NOISE_DRAWS * len(images))


def check_settings(folder: ClassifierFolder, config: TrialConfig) -> None:
    """Raise InputError where a folder holds a training with other settings."""
    path = folder.settings_path
    if not path.exists():
        return
    found = trial_config(read_yaml(path), source=str(path))
    if found.without_budget() != config.without_budget():
        raise InputError(
            f"{folder.path} holds a training with other settings; choose another folder with --out."
        )


def write_settings(folder: ClassifierFolder, config: TrialConfig) -> None:
    """Write the settings of a folder's training."""
    document = config.model_dump(mode="json")
    write_text(folder.settings_path, yaml.safe_dump(document, sort_keys=False))


def _check_origin(folder: ClassifierFolder, found: str, expected: str) -> None:
    if found != expected:
        raise InputError(
            f"{folder.path} holds a training in another precision or of an earlier version; choose "
            "another folder with --out."
        )


def _save(folder: ClassifierFolder, trainer: ClassifierTrainer, origin: str) -> None:
    state = {"origin": origin, "trainer": trainer.state_dict()}
    write_whole(folder.checkpoint_path, lambda temporary: torch.save(state, temporary))
    write_json(folder.history_path, [asdict(record) for record in trainer.history])
