"""What a trial writes to its folder, each file whole."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file
from torch import nn

from decrop.evaluation.plots import certified_accuracy_figure, training_curves_figure
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json, write_json, write_whole
from decrop.result import TrialResult
from decrop.training.denoiser import DenoiserTrainer
from decrop.trial_folder import TrialFolder


def save_progress(folder: TrialFolder, trainer: DenoiserTrainer) -> None:
    """Write checkpoint and history."""
    write_whole(
        folder.checkpoint_path, lambda temporary: torch.save(trainer.state_dict(), temporary)
    )
    write_json(folder.history_path, [asdict(record) for record in trainer.history])


def load_progress(folder: TrialFolder, trainer: DenoiserTrainer) -> None:
    """Let a trainer go on from the checkpoint, if there is one."""
    if folder.checkpoint_path.exists():
        trainer.load_state_dict(torch.load(folder.checkpoint_path, weights_only=True))


def read_reports(folder: TrialFolder) -> list[dict[str, Any]]:
    """Return the reports written so far."""
    if not folder.reports_path.exists():
        return []
    reports: list[dict[str, Any]] = read_json(folder.reports_path)
    return reports


def save_denoiser(folder: TrialFolder, denoiser: nn.Module) -> None:
    """Write the denoiser's weights as safetensors."""
    weights = {name: t.cpu().contiguous() for name, t in denoiser.state_dict().items()}
    write_whole(folder.denoiser_path, lambda temporary: save_file(weights, temporary))


def save_training_figure(folder: TrialFolder, trainer: DenoiserTrainer) -> None:
    """Draw the losses over epochs."""
    figure = training_curves_figure([asdict(record) for record in trainer.history])
    _save_figure(figure, folder.figures_path / "training.png")


def save_outcome(
    folder: TrialFolder, result: TrialResult, table: CertificateTable, *, title: str
) -> None:
    """Write certificates, their picture and, last, the result."""
    write_whole(folder.certificates_path, table.write_tsv)
    figure = certified_accuracy_figure(
        {title: (table.predict, table.radius, table.label)},
        max_radius=max(float(table.radius.max()), 0.25),
    )
    _save_figure(figure, folder.figures_path / "certified_accuracy.png")
    write_json(folder.result_path, result.to_json())
    folder.counts_path.unlink(missing_ok=True)


def _save_figure(figure: Figure, path: Path) -> None:
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
