"""How much memory stage 1 and a training take beyond their images, as a process of its own.

python -m tests.decrop.stage_one_memory IMAGES
"""

import resource
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

from decrop.cache import ContentCache
from decrop.classifiers.classifier import Classifier
from decrop.config import TrialConfig
from decrop.data.limited import LabelledImages, LimitedData
from decrop.documents import merge, trial_config
from decrop.synthesis.synthetic_samples import synthetic_samples
from decrop.training.denoiser import DenoiserTrainer
from tests.decrop.tiny import CLASSES, CPU, SIZE, TINY_TRIAL, random_images

# Of each image the classifier holds several times so many numbers, and computes next to nothing.
CHANNELS = 128


def settings() -> TrialConfig:
    """One step of everything; without augmentation, for which clean outputs are kept."""
    changes = {
        "boundary": {"steps": 1},
        "interpolation": {"steps": 1},
        "training": {"augmentation": {"policy": "none"}},
    }
    return trial_config(merge(TINY_TRIAL, changes), source="test")


def most_megabytes() -> float:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(count: int) -> None:
    """Print the megabytes that were taken."""
    torch.set_num_threads(1)
    network = nn.Sequential(
        nn.Conv2d(1, CHANNELS, 1),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(CHANNELS, CLASSES),
    )
    classifier = Classifier(
        network, architecture="wide", mean=(0.5,), std=(0.1,), class_count=CLASSES
    )
    labels = torch.arange(count) % CLASSES
    images = LabelledImages(random_images(count), labels, torch.arange(count))
    limited = LimitedData(images, torch.arange(count) % 4 == 3)
    config = settings()
    with tempfile.TemporaryDirectory() as folder:
        before = most_megabytes()
        samples = synthetic_samples(
            config, classifier, limited, cache=ContentCache(Path(folder)), device=CPU
        )
        trainer = DenoiserTrainer(config, classifier, samples.subset(~limited.held_out_mask), CPU)
        trainer.step()
        after = most_megabytes()
    assert samples.clean.shape == (count, 1, SIZE, SIZE)
    print(after - before)


if __name__ == "__main__":
    main(int(sys.argv[1]))
