"""Writes the bundle of the current format that later versions must go on reading.

Run by hand when the format changes: `python -m tests.decrop.bundle.tiny_bundle FOLDER`.
"""

import sys
import tempfile
from pathlib import Path

import torch

from decrop.bundle import export_bundle
from decrop.cache import ContentCache
from decrop.inputs import load_inputs
from decrop.trial import run_trial
from decrop.trial_folder import TrialFolder
from tests.decrop.digits_trial import CPU, short_trial

_STEP = 1 / 64


def write_tiny_bundle(destination: Path) -> None:
    """Train a tiny denoiser on digits, certify a few images, and export it without figures."""
    # Not bf16, which few processors compute in.
    config = short_trial("execution.precision=fp32", "classifier.training.epochs=10")
    with tempfile.TemporaryDirectory() as temporary:
        cache, trial = ContentCache(Path(temporary)), TrialFolder(Path(temporary) / "trial")
        inputs = load_inputs(config, cache, CPU)
        with torch.no_grad():
            # Git packs rounded weights to a fifth.
            for parameter in inputs.classifier.parameters():
                parameter.copy_((parameter / _STEP).round() * _STEP)
        list(run_trial(config, inputs, trial, cache, split="test"))
        for figure in trial.figures_path.iterdir():
            figure.unlink()
        export_bundle(
            trial,
            inputs.classifier,
            inputs.class_names,
            destination,
            origin="Made to test that later versions read this format.",
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_tiny_bundle(Path(sys.argv[1]))
