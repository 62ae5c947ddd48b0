"""Writes the bundle of the current format that later versions must go on reading.

Run by hand when the format changes: `python -m tests.decrop.bundle.tiny_bundle FOLDER`, and
`python -m tests.decrop.bundle.tiny_bundle FOLDER BUNDLE` for one with a rejector, from one without.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import torch

from decrop.bundle import export_bundle, load_bundle
from decrop.bundle.layout import CHECKSUMS, write_checksums
from decrop.bundle.rejector import add_rejector
from decrop.cache import ContentCache
from decrop.cli.options import change
from decrop.config.rejector import RejectorSettings
from decrop.trial.folder import TrialFolder
from decrop.trial.prepare import load_inputs
from decrop.trial.run import run_trial
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


def write_tiny_rejecting_bundle(destination: Path, source: Path) -> None:
    """Add a tiny rejector to a tiny bundle."""
    bundle = load_bundle(source)
    assignments = ["certification.procedure=fixed", "certification.certificate=rejection"]
    settings = RejectorSettings(
        width=4,
        blocks=(1, 1, 1, 1),
        hidden_units=8,
        threshold=0.8,
        head="denoised",
        epochs=30,
        adam_epochs=30,
        adam_learning_rate=5e-3,
    )
    with tempfile.TemporaryDirectory() as temporary:
        add_rejector(
            source,
            bundle,
            change(bundle.config, assignments),
            settings,
            destination,
            TrialFolder(Path(temporary) / "work"),
        )
    # Pictures are not what it is kept for.
    shutil.rmtree(destination / "figures")
    write_checksums_anew(destination)


def write_checksums_anew(bundle: Path) -> None:
    """Write down the checksums of what is there."""
    (bundle / CHECKSUMS).unlink()
    write_checksums(bundle)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 2:
        write_tiny_rejecting_bundle(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        write_tiny_bundle(Path(sys.argv[1]))
