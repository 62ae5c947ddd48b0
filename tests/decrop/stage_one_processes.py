"""Stage 1 as another process runs it, on a cache that it shares."""

from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch

from decrop.cache import ContentCache
from decrop.config import BoundarySettings, InterpolationSettings, TrialConfig
from decrop.files import write_text
from decrop.synthesis.synthetic_samples import SyntheticSamples, synthetic_samples
from tests.decrop.tiny import CPU, labelled, limited, random_images, tiny_classifier

BOUNDARY = BoundarySettings(epsilon=0.1, step_size=0.02, steps=5)
INTERPOLATION = InterpolationSettings(steps=5)
CONFIG = TrialConfig(boundary=BOUNDARY, interpolation=INTERPOLATION)


def stage_one_at_once(barrier: Barrier, folder: Path, name: str) -> None:
    """Wait until all processes are there, run stage 1, and leave a digest of the samples."""
    torch.set_num_threads(1)
    classifier = tiny_classifier()
    images = labelled(classifier, random_images(10))
    barrier.wait(120)
    samples = synthetic_samples(
        CONFIG,
        classifier,
        limited(images),
        cache=ContentCache(folder),
        device=CPU,
    )
    write_text(folder / name, digest(samples))


def digest(samples: SyntheticSamples) -> str:
    """Return something that differs if any sample does."""
    return repr([samples.boundary.tolist(), samples.interpolated.tolist()])
