"""A trial on digits that takes a second, in both phases and three evaluations, and what it left."""

from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file

from decrop.bundle import export_bundle
from decrop.cli.options import load_trial
from decrop.config import TrialConfig
from decrop.evaluation import plots, sample_figures
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json, sha256_of_tensors
from decrop.trial.folder import TrialFolder
from decrop.trial.inputs import TrialInputs

CPU = torch.device("cpu")
EVALUATIONS, EPOCHS, PHASE_ONE_EPOCHS = 3, 5, 3
SELECTION_SAMPLES, ESTIMATION_SAMPLES = 10, 60
HELD_OUT_SAMPLES, PRUNING_SAMPLES = 40, 20
TEST_IMAGES = 20

# Over the preset `digits`. 40 limited images, 10 of them held out; two steps an epoch; the
# optimiser changes between the first and the second evaluation, the phase after the second.
SHORT = (
    "sigma=0.25",
    "limited.fraction=0.03",
    "limited.held_out_fraction=0.25",
    "classifier.training.epochs=2",
    "boundary.epsilon=0.2",
    "boundary.step_size=0.05",
    "boundary.steps=3",
    "interpolation.steps=3",
    "interpolation.learning_rate=0.005",
    "denoiser.depth=3",
    "denoiser.channels=4",
    f"training.epochs={PHASE_ONE_EPOCHS}",
    f"training.discriminator_epochs={EPOCHS - PHASE_ONE_EPOCHS}",
    "training.batch_size=20",
    "training.optimizer=adam_then_sgd",
    "training.adam_epochs=2",
    f"training.evaluations={EVALUATIONS}",
    "execution.training_precision=fp32",
    f"certification.selection_samples={SELECTION_SAMPLES}",
    f"certification.estimation_samples={ESTIMATION_SAMPLES}",
    f"certification.max_samples={SELECTION_SAMPLES + ESTIMATION_SAMPLES}",
    f"certification.held_out_samples={HELD_OUT_SAMPLES}",
    f"certification.pruning_samples={PRUNING_SAMPLES}",
    "certification.failure_probability=0.05",
    f"certification.test_images={TEST_IMAGES}",
    "execution.device=cpu",
    "execution.chunk_size=20",
    "execution.chunks_per_batch=4",
)

# Equally many draws for each image, of which tests know the number.
FIXED = "certification.procedure=fixed"


def short_trial(*assignments: str) -> TrialConfig:
    """Return the settings, with some changed."""
    return load_trial("digits", [*SHORT, *assignments])


def sample_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trials write empty figures: to draw them takes longer than the rest of a trial."""
    for name in ("training_curves_figure", "certificates_figure", "probabilities_figure"):
        monkeypatch.setattr(plots, name, lambda *arguments, **named: Figure())
    for name in ("samples_figure", "features_figure"):
        monkeypatch.setattr(sample_figures, name, lambda *arguments, **named: Figure())


def certificates(table: CertificateTable) -> list[tuple[Any, ...]]:
    """Return all columns of each image that are known, without the time it took."""
    columns = (table.idx, table.label, table.predict, table.radius, table.samples, table.ending)
    known = (column.tolist() for column in columns if column is not None)
    return list(zip(*known, strict=True))


def outcome(folder: TrialFolder) -> dict[str, Any]:
    """Return everything that a finished trial left, without the time it took."""
    return {
        "config": read_json(folder.config_path),
        "reports": read_json(folder.reports_path),
        "history": [_untimed(record) for record in read_json(folder.history_path)],
        "denoiser": sha256_of_tensors(load_file(folder.denoiser_path)),
        "certificates": certificates(CertificateTable.read_tsv(folder.certificates_path)),
        "result": _untimed(read_json(folder.result_path)),
    }


def files_in(folder: Path) -> set[str]:
    """Return the paths of all files under a folder, relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def export(trial: TrialFolder, inputs: TrialInputs, path: Path, **options: Any) -> Path:
    """Export the bundle of a trial and return its path."""
    named = {"origin": "Made for tests.", **options}
    export_bundle(trial, inputs.classifier, inputs.class_names, path, **named)
    return path


def _untimed(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != "seconds"}
