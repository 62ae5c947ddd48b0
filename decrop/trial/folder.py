"""The folder of one trial: where its files lie, and how they are read and written."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from decrop.classifiers.classifier import Classifier
from decrop.config import TrialConfig
from decrop.errors import InputError
from decrop.evaluation.plots import certificates_figure, training_curves_figure
from decrop.evaluation.sample_figures import features_figure, samples_figure
from decrop.evaluation.table import CertificateTable
from decrop.files import (
    MOST_WEIGHTS_BYTES,
    read_json,
    require_regular,
    write_json,
    write_whole,
)
from decrop.synthesis.synthetic_samples import SyntheticSamples
from decrop.training.loop import AnyTrainer
from decrop.trial.result import TrialResult


class TrialFolder:
    """The files of one training with its certification; any may be missing while it runs.

    Attributes:
        path: the folder.
        config_path: the settings.
        inputs_path: content hashes of what it works on, by role.
        execution_path: the batch size that its certificates are computed in.
        checkpoint_path: the state to resume from.
        history_path: one record an epoch.
        reports_path: one record an evaluation.
        denoiser_path: the trained weights.
        classifier_path: folder of the trained classifier, where the trial has no denoiser.
        certificates_path: one row an image.
        counts_path: class counts, while the final certification runs.
        clean_accuracy_path: accuracy without noise, of a black box.
        result_path: the result, written last.
        figures_path: folder of pictures.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.json"
        self.inputs_path = path / "inputs.json"
        self.execution_path = path / "execution.json"
        self.checkpoint_path = path / "checkpoint.pt"
        self.history_path = path / "history.json"
        self.reports_path = path / "reports.json"
        self.denoiser_path = path / "denoiser.safetensors"
        self.classifier_path = path / "classifier"
        self.certificates_path = path / "certificates.tsv"
        self.counts_path = path / "certification.counts"
        self.clean_accuracy_path = path / "clean_accuracy.json"
        self.result_path = path / "result.json"
        self.figures_path = path / "figures"


TRAINING_FIGURE = "training.png"
ACCURACY_FIGURE = "certified_accuracy.png"
SAMPLES_FIGURE = "samples.png"
FEATURES_FIGURE = "features.png"

# What a changed content hash means, by the role of what has it.
_CHANGED = {
    "classifier": "another classifier",
    "surrogate": "another surrogate",
    "denoiser": "another denoiser",
    "initial_weights": "other initial weights",
    "limited_data": "other limited data",
    "training_images": "other training images",
    "test_images": "other test images",
}
_SHOWN_DIGITS = 12


class ChangedInputsError(InputError):
    """A folder's work cannot go on, for what lies at the paths of its settings is another."""


def check_inputs_kept(
    path: Path, found: Mapping[str, str], *, recorded: Mapping[str, str] | None = None
) -> None:
    """Refuse to go on with anything else than what a folder was begun with.

    Args:
        path: the folder's `inputs.json`; without one it was not begun.
        found: content hashes by role.
        recorded: what `path` holds, where it was read already.

    Raises:
        ChangedInputsError: a role that both have has another hash.
    """
    if recorded is None:
        recorded = read_json(path) if path.exists() else {}
    changed = [
        f"{_CHANGED.get(role, role)} ({recorded[role][:_SHOWN_DIGITS]}, now "
        f"{digest[:_SHOWN_DIGITS]})"
        for role, digest in found.items()
        if recorded.get(role, digest) != digest
    ]
    if changed:
        raise ChangedInputsError(
            f"{path.parent} was begun with {' and '.join(changed)}; put back what lay there, or "
            "begin anew in another folder."
        )


def keep_inputs(path: Path, found: Mapping[str, str]) -> None:
    """Write `inputs.json`, unless the folder was begun with something else.

    Raises:
        ChangedInputsError: it was.
    """
    recorded = read_json(path) if path.exists() else {}
    check_inputs_kept(path, found, recorded=recorded)
    if not found.items() <= recorded.items():
        write_json(path, {**recorded, **found})


def save_progress(folder: TrialFolder, trainer: AnyTrainer) -> None:
    """Write checkpoint and history."""
    write_whole(
        folder.checkpoint_path, lambda temporary: torch.save(trainer.state_dict(), temporary)
    )
    write_json(folder.history_path, [asdict(record) for record in trainer.history])


def load_progress(folder: TrialFolder, trainer: AnyTrainer) -> None:
    """Let a trainer go on from the checkpoint, if there is one."""
    if folder.checkpoint_path.exists():
        require_regular(folder.checkpoint_path, most_bytes=MOST_WEIGHTS_BYTES)
        trainer.load_state_dict(torch.load(folder.checkpoint_path, weights_only=True))


def read_history(folder: TrialFolder) -> list[dict[str, Any]]:
    """Return the records of the epochs that were saved."""
    history: list[dict[str, Any]] = read_json(folder.history_path)
    return history


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


def load_denoiser(folder: TrialFolder, denoiser: nn.Module) -> None:
    """Give a denoiser the weights in the folder."""
    require_regular(folder.denoiser_path, most_bytes=MOST_WEIGHTS_BYTES)
    denoiser.load_state_dict(load_file(folder.denoiser_path))


def save_training_figure(folder: TrialFolder, history: Sequence[Mapping[str, Any]]) -> None:
    """Draw the losses over epochs, one record an epoch."""
    figure = training_curves_figure(history)
    save_figure(figure, folder.figures_path / TRAINING_FIGURE)


def save_sample_figures(
    figures_path: Path,
    config: TrialConfig,
    samples: SyntheticSamples,
    labels: Tensor,
    classifier: Classifier,
    denoiser: nn.Module,
    class_names: Sequence[str],
    *,
    shown_class: int = 0,
    device: torch.device,
) -> None:
    """Draw the limited data as pictures, and the classifier's features of one class.

    Arguments as in `samples_figure` and `features_figure`; sigma and seed are the settings'.
    """
    pictures = samples_figure(
        samples,
        labels,
        classifier,
        denoiser,
        class_names,
        sigma=config.sigma,
        seed=config.seed,
        device=device,
    )
    save_figure(pictures, figures_path / SAMPLES_FIGURE)
    features = features_figure(
        samples,
        labels,
        classifier,
        class_names,
        shown_class=shown_class,
        seed=config.seed,
        device=device,
    )
    save_figure(features, figures_path / FEATURES_FIGURE)


def save_outcome(
    folder: TrialFolder, result: TrialResult, table: CertificateTable, *, title: str
) -> None:
    """Write certificates, their picture and, last, the result."""
    table.write(folder.certificates_path)
    save_figure(certificates_figure({title: table}), folder.figures_path / ACCURACY_FIGURE)
    write_json(folder.result_path, result.to_json())
    folder.counts_path.unlink(missing_ok=True)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
