"""Training measured: seconds an epoch beside a plain loop, and what the denoisers are worth.

    python -m tests.benchmarks.train --quick --json
    python -m tests.benchmarks.train --dataset-path CIFAR10 --classifier RESNET20.safetensors

The plain loop does what published code does: a DataLoader over per-image transforms on PIL images,
one forward pass a view through denoiser and classifier, fp32. Both train DE-CROP's first phase from
equal initial weights with equal batches and epochs, for several seeds in turns. Without files the
images are scikit-learn's digits, enlarged to 32x32 pixels in three channels, and the classifier is
trained here.
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from decrop._torchvision import torchvision
from decrop.classifiers.classifier import Classifier
from decrop.config import DatasetSettings, TrialConfig
from decrop.config.classifier_training import ClassifierTrainingSettings
from decrop.data.datasets import load_dataset
from decrop.documents import trial_config
from decrop.networks.registry import build_denoiser
from decrop.networks.resnet import CifarResNet
from decrop.networks.small_cnn import SmallCNN
from decrop.seeds import seeded_globals, torch_generator
from decrop.smoothing.execution import resolve_device, resolve_precision
from decrop.synthesis.synthetic_samples import SyntheticSamples
from decrop.training.classifier import ClassifierTrainer
from decrop.training.denoiser import DenoiserTrainer
from decrop.training.loop import train
from decrop.training.losses import (
    LossTerms,
    cosine_similarity,
    label_consistency_loss,
    maximum_mean_discrepancy,
    total_loss,
)

# Of the published code.
BATCH_SIZE = 200
NOISE_DRAWS = 4
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


class PlainViews(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Three PIL images an item, each cropped and flipped by itself."""

    def __init__(self, samples: SyntheticSamples) -> None:
        transforms = torchvision.transforms
        to_image = transforms.ToPILImage()
        self._views = [
            [to_image(image) for image in view]
            for view in (samples.clean, samples.boundary, samples.interpolated[0])
        ]
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(samples.clean.shape[-1], padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self._views[0])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        clean, boundary, interpolated = (self._transform(view[index]) for view in self._views)
        return clean, boundary, interpolated


class PlainTrainer:
    """DE-CROP's first phase as scripts write it."""

    def __init__(
        self,
        config: TrialConfig,
        classifier: Classifier,
        samples: SyntheticSamples,
        device: torch.device,
    ) -> None:
        self._config, self._classifier, self._device = config, classifier, device
        self._loader = DataLoader(
            PlainViews(samples), batch_size=config.training.batch_size, shuffle=True
        )
        with seeded_globals(config.seed, "denoiser initialisation"):
            self.denoiser = build_denoiser(config.denoiser, image_channels=3).to(device)
        self._optimizer = torch.optim.Adam(
            self.denoiser.parameters(),
            lr=config.training.learning_rate,
            weight_decay=config.training.weight_decay,
        )

    def run_epoch(self) -> None:
        """Train one more epoch."""
        self.denoiser.train()
        for views in self._loader:
            clean, boundary, interpolated = (view.to(self._device) for view in views)
            noise = torch.randn_like(clean) * self._config.sigma
            with torch.no_grad():
                targets, features = self._classifier.logits_and_features(clean)
            cosine, mmd = torch.zeros((), device=self._device), torch.zeros((), device=self._device)
            for view in (interpolated, boundary):
                logits, found = self._classifier.logits_and_features(self.denoiser(view + noise))
                cosine = cosine + cosine_similarity(logits, targets)
                mmd = mmd + maximum_mean_discrepancy(found, features)
            logits = self._classifier(self.denoiser(clean + noise))
            terms = LossTerms(label_consistency_loss(logits, targets), cosine, mmd)
            self._optimizer.zero_grad()
            total_loss(terms, self._config.training.loss_weights).backward()
            self._optimizer.step()


def noisy_accuracy(
    denoiser: nn.Module, classifier: Classifier, images: Tensor, labels: Tensor, sigma: float
) -> float:
    """Return the accuracy on noisy held-out images float32, over several draws of the noise."""
    denoiser.eval()
    generator = torch_generator(0, "benchmark noise")
    right = 0
    with torch.inference_mode():
        for _ in range(NOISE_DRAWS):
            noisy = images + sigma * torch.randn(images.shape, generator=generator)
            for part, truth in zip(noisy.split(200), labels.split(200), strict=True):
                found = classifier(denoiser(part.to(classifier.mean.device))).argmax(1)
                right += int((found.cpu() == truth).sum())
    return right / (NOISE_DRAWS * len(labels))


def load_problem(
    dataset_path: Path | None, weights: Path | None, images: int, device: torch.device
) -> tuple[Classifier, SyntheticSamples, Tensor, Tensor, str]:
    """Return classifier, samples to train on, held-out images float32 and labels, what they are."""
    if dataset_path is None or weights is None:
        dataset, name = load_dataset(DatasetSettings(name="digits")), "digits, 32x32"
        mean, std = dataset.mean * 3, dataset.std * 3
        network: nn.Module = SmallCNN(image_channels=3, class_count=10)
    else:
        name = "CIFAR-10"
        dataset = load_dataset(DatasetSettings(name="cifar10", path=str(dataset_path)))
        mean, std = CIFAR10_MEAN, CIFAR10_STD
        network = CifarResNet(blocks=3, image_channels=3, class_count=10)
        network.load_state_dict(load_file(weights))
    order = torch.randperm(len(dataset.train.labels), generator=torch_generator(0, "images"))
    rows = order[: images + 500]
    pixels, labels = dataset.train.images(rows), dataset.train.labels[rows]
    classifier = Classifier(network, architecture="benchmark", mean=mean, std=std, class_count=10)
    if pixels.shape[1] == 1:
        pixels = F.interpolate(pixels, scale_factor=4).expand(-1, 3, -1, -1).contiguous()
        training = ClassifierTrainingSettings(epochs=8)
        trainer = ClassifierTrainer(classifier, pixels, labels, training, sigma=0.0, device=device)
        train(trainer)
        network.load_state_dict(trainer.weights())
    clean = pixels.float() / 255
    # Where samples lie between clean and boundary changes no time.
    moved = (clean[:images] + (torch.rand_like(clean[:images]) - 0.5) * 16 / 255).clamp(0, 1)
    samples = SyntheticSamples(
        clean[:images],
        moved,
        torch.ones(images, dtype=torch.bool),
        (clean[:images] + moved)[None] / 2,
        torch.zeros(1, images),
    )
    return classifier.to(device), samples, clean[images:], labels[images:], name


def main(
    dataset_path: Annotated[Path | None, typer.Option(help="Folder of CIFAR-10.")] = None,
    classifier: Annotated[Path | None, typer.Option(help="Weights of the ResNet-20.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    images: Annotated[int, typer.Option(help="Images to train on.")] = 500,
    epochs: Annotated[int, typer.Option(help="Epochs of each training.")] = 10,
    depth: Annotated[int, typer.Option(help="Layers of the denoiser, of 48 channels.")] = 10,
    seeds: Annotated[int, typer.Option(help="Trainings of each kind.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="Few images, epochs, layers.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure an epoch against the plain loop, and held-out accuracy after equal epochs."""
    on = resolve_device(device)  # type: ignore[arg-type]
    if quick:
        images, epochs, depth = 200, 7, 6
    protected, samples, held_out, labels, data = load_problem(dataset_path, classifier, images, on)
    seconds: dict[str, list[float]] = {"plain": [], "engine": []}
    accuracy: dict[str, list[float]] = {"plain": [], "engine": []}
    for seed in range(seeds):
        config = trial_config(
            {
                "seed": seed,
                "denoiser": {"depth": depth, "channels": 48},
                "training": {
                    "batch_size": BATCH_SIZE,
                    "learning_rate": 3e-3,
                    "augmentation": {"views": "independent"},
                },
            },
            source="benchmark",
        )
        with seeded_globals(seed, "plain loop"):
            plain = PlainTrainer(config, protected, samples, on)
            engine = DenoiserTrainer(config, protected, samples, on)
            trainers: dict[str, Any] = {"plain": plain, "engine": engine}
            for _ in range(epochs):
                for name, trainer in trainers.items():
                    started = time.perf_counter()
                    trainer.run_epoch()
                    if on.type == "cuda":
                        torch.cuda.synchronize()
                    seconds[name].append(time.perf_counter() - started)
        for name, trainer in trainers.items():
            accuracy[name].append(
                noisy_accuracy(trainer.denoiser, protected, held_out, labels, config.sigma)
            )
    gain = 100 * (np.array(accuracy["engine"]) - np.array(accuracy["plain"]))
    document = {
        "device": torch.cuda.get_device_name() if on.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "precision": resolve_precision("auto", on),
        "data": data,
        "images": images,
        "batch_size": BATCH_SIZE,
        "depth": depth,
        "epochs": epochs,
        "seeds": seeds,
        # Medians, for the first epoch of each also prepares memory and kernels.
        "epoch_seconds": {name: float(np.median(values)) for name, values in seconds.items()},
        "epoch_speedup": float(np.median(seconds["plain"]) / np.median(seconds["engine"])),
        "held_out_accuracy": accuracy,
        "held_out_accuracy_undefended": noisy_accuracy(
            nn.Identity(), protected, held_out, labels, config.sigma
        ),
        "held_out_accuracy_difference_points": float(gain.mean()),
        "held_out_accuracy_difference_spread": float(gain.std(ddof=1)) if seeds > 1 else None,
    }
    print(json.dumps(document) if as_json else json.dumps(document, indent=2))


if __name__ == "__main__":
    typer.run(main)
