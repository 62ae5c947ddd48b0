"""The folder of one trial: where its files lie, and how they are read and written."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from decrop.classifiers.classifier import Classifier
from decrop.config import TrialConfig, as_recorded
from decrop.errors import InputError
from decrop.evaluation.plots import certificates_figure, training_curves_figure
from decrop.evaluation.sample_figures import features_figure, samples_figure
from decrop.evaluation.table import CertificateTable
from decrop.files import (
    MOST_WEIGHTS_BYTES,
    read_json,
    read_object,
    read_rows,
    require_regular,
    write_json,
    write_whole,
)
from decrop.synthesis.synthetic_samples import SyntheticSamples
from decrop.trial.result import TrialResult

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


class Record(Protocol):
    """A dataclass that tells of an epoch."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class Trainer(Protocol):
    """What is trained by epochs, and goes on from its state."""

    @property
    def history(self) -> Sequence[Record]:
        """One record an epoch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later process needs to go on; loads with `weights_only=True`."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        ...


@dataclass(frozen=True)
class Report:
    """A held-out (or, at the end of a final training, test) score of a trial.

    Attributes:
        evaluation: counted from 1.
        epoch: epochs that the scored denoiser was trained for.
        average_certified_radius: the sweep's objective.
        certified_accuracy: by radius.
        finished: whether this is the trial's last report.
    """

    evaluation: int
    epoch: int
    average_certified_radius: float
    certified_accuracy: dict[str, float]
    finished: bool


class TrialFolder:
    """The files of one training with its certification; any may be missing while it runs.

    All are written whole. Reading raises InputError where a file is not what it must be.

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
        clean_accuracy_path: accuracy without noise, where answers are paid for.
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

    def read_config(self) -> TrialConfig:
        """Read the settings, also those that an earlier version wrote."""
        return TrialConfig.model_validate(as_recorded(read_json(self.config_path)))

    def write_config(self, config: TrialConfig) -> None:
        """Write the settings."""
        write_json(self.config_path, config.model_dump(mode="json"))

    def read_inputs(self) -> dict[str, str]:
        """Read the content hashes of what the trial works on, by its role, {} if absent."""
        return read_object(self.inputs_path)

    def keep_inputs(self, found: Mapping[str, str]) -> None:
        """Write the content hashes, unless the folder was begun with something else.

        Raises:
            ChangedInputsError: it was.
        """
        keep_inputs(self.inputs_path, found)

    def read_history(self) -> list[dict[str, Any]]:
        """Read the losses of every epoch so far, [] if absent."""
        return read_rows(self.history_path)

    def write_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write one record an epoch."""
        write_json(self.history_path, list(history))

    def read_reports(self) -> list[dict[str, Any]]:
        """Read the scores so far, [] if absent."""
        return read_rows(self.reports_path)

    @property
    def reports(self) -> list[Report]:
        """The scores so far."""
        return [Report(**report) for report in self.read_reports()]

    def write_reports(self, reports: Sequence[Report]) -> None:
        """Write one record an evaluation."""
        write_json(self.reports_path, [asdict(report) for report in reports])

    def read_result(self) -> dict[str, Any] | None:
        """Read the result of certification, None if absent."""
        return read_object(self.result_path) if self.result_path.exists() else None

    @property
    def result(self) -> TrialResult | None:
        """The result of certification, None if absent."""
        found = self.read_result()
        return None if found is None else TrialResult.from_json(found)

    def save_progress(self, trainer: Trainer) -> None:
        """Write checkpoint and history."""
        write_whole(
            self.checkpoint_path, lambda temporary: torch.save(trainer.state_dict(), temporary)
        )
        self.write_history([asdict(record) for record in trainer.history])

    def load_progress(self, trainer: Trainer) -> None:
        """Let a trainer go on from the checkpoint, if there is one."""
        if self.checkpoint_path.exists():
            require_regular(self.checkpoint_path, most_bytes=MOST_WEIGHTS_BYTES)
            trainer.load_state_dict(torch.load(self.checkpoint_path, weights_only=True))

    def save_denoiser(self, denoiser: nn.Module) -> None:
        """Write the denoiser's weights as safetensors."""
        weights = {name: t.cpu().contiguous() for name, t in denoiser.state_dict().items()}
        write_whole(self.denoiser_path, lambda temporary: save_file(weights, temporary))

    def load_denoiser(self, denoiser: nn.Module) -> None:
        """Give a denoiser the weights in the folder."""
        require_regular(self.denoiser_path, most_bytes=MOST_WEIGHTS_BYTES)
        denoiser.load_state_dict(load_file(self.denoiser_path))

    def write_outcome(self, result: TrialResult, table: CertificateTable, *, title: str) -> None:
        """Write certificates, their picture and, last, the result.

        Args:
            result: that sums up the certificates.
            table: the certificates.
            title: what the picture calls the certified function.
        """
        table.write(self.certificates_path)
        save_figure(certificates_figure({title: table}), self.figures_path / ACCURACY_FIGURE)
        write_json(self.result_path, result.to_json())
        self.counts_path.unlink(missing_ok=True)

    def draw_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Draw the losses over epochs, one record an epoch."""
        save_figure(training_curves_figure(history), self.figures_path / TRAINING_FIGURE)


def keep_inputs(path: Path, found: Mapping[str, str]) -> None:
    """Write `inputs.json`, unless the folder was begun with something else.

    Raises:
        ChangedInputsError: it was.
    """
    recorded = read_object(path)
    check_inputs_kept(path, found, recorded=recorded)
    if not found.items() <= recorded.items():
        write_json(path, {**recorded, **found})


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
        recorded = read_object(path)
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


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
