"""The folder of one training: where its files lie, and how they are read and written."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import yaml

from decrop.cache import Tensors
from decrop.config import TrialConfig
from decrop.documents import read_yaml, trial_config
from decrop.errors import InputError
from decrop.files import (
    MOST_WEIGHTS_BYTES,
    open_regular,
    read_object,
    read_rows,
    write_json,
    write_tensors,
    write_text,
    write_whole,
)
from decrop.training.loop import AnyTrainer

# What a changed content hash means, by the role of what has it.
_CHANGED = {
    "classifier": "another classifier",
    "surrogate": "another surrogate",
    "denoiser": "another denoiser",
    "classifier_code": "a classifier of other code",
    "initial_denoiser": "another denoiser to go on from",
    "denoiser_code": "a denoiser of other code",
    "initial_weights": "other initial weights",
    "limited_data": "other limited data",
    "training_images": "other training images",
    "test_images": "other test images",
}
_SHOWN_DIGITS = 12
# Of checkpoints, which had no number before.
_FORMAT = 2


class ChangedInputsError(InputError):
    """A folder's work cannot go on, for what lies at the paths of its settings is another."""


class TrainingFolder:
    """What every training keeps in its folder; any file may be missing while it runs.

    All are written whole. Reading raises InputError where a file is not what it must be.

    Attributes:
        inputs_path: content hashes of what it is trained on and from, by role.
        checkpoint_path: the state to resume from.
        history_path: one record an epoch.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inputs_path = path / "inputs.json"
        self.checkpoint_path = path / "checkpoint.pt"
        self.history_path = path / "history.json"

    def read_inputs(self) -> dict[str, str]:
        """Return the content hashes that the folder was begun with; {} before."""
        return read_object(self.inputs_path)

    def check_inputs(self, found: Mapping[str, str]) -> None:
        """Refuse to go on with anything else than what the folder was begun with.

        Raises:
            ChangedInputsError: a role that both have has another hash.
        """
        recorded = self.read_inputs()
        changed = [
            f"{_CHANGED.get(role, role)} ({recorded[role][:_SHOWN_DIGITS]}, now "
            f"{digest[:_SHOWN_DIGITS]})"
            for role, digest in found.items()
            if recorded.get(role, digest) != digest
        ]
        if changed:
            raise ChangedInputsError(
                f"{self.path} was begun with {' and '.join(changed)}; put back what lay there, or "
                "begin anew in another folder."
            )

    def keep_inputs(self, found: Mapping[str, str]) -> None:
        """Write content hashes by role, unless the folder was begun with something else.

        Raises:
            ChangedInputsError: it was.
        """
        self.check_inputs(found)
        recorded = self.read_inputs()
        if not found.items() <= recorded.items():
            write_json(self.inputs_path, {**recorded, **found})

    def read_history(self) -> list[dict[str, Any]]:
        """Return the records of the epochs that were saved; [] before."""
        return read_rows(self.history_path)

    def write_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write one record an epoch."""
        write_json(self.history_path, list(history))

    def save_progress(self, trainer: AnyTrainer, origin: str | None = None) -> None:
        """Write checkpoint and history.

        Args:
            origin: hash of all that its weights depend on, where that is more than the inputs.
        """
        state = {"format": _FORMAT, "origin": origin, "trainer": trainer.state_dict()}
        write_whole(self.checkpoint_path, lambda temporary: torch.save(state, temporary))
        self.write_history([asdict(record) for record in trainer.history])

    def load_progress(self, trainer: AnyTrainer, origin: str | None = None) -> None:
        """Let a trainer go on from the checkpoint, if there is one.

        One that is torn, or of an earlier version, is left: training anew comes to the same.
        """
        if not self.checkpoint_path.exists():
            return
        # A file that cannot be opened may be whole, so that its error is not one of these.
        with open_regular(self.checkpoint_path, most_bytes=MOST_WEIGHTS_BYTES) as file:
            try:
                state = torch.load(file, map_location="cpu", weights_only=True)
            except (OSError, RuntimeError, EOFError, UnpicklingError):
                state = None
        if state is None or state.get("format") != _FORMAT:
            why = "cannot be read" if state is None else "is of an earlier version"
            warnings.warn(f"{self.checkpoint_path} {why}: training begins anew.", stacklevel=2)
            return
        self.check_origin(state["origin"], origin)
        trainer.load_state_dict(state["trainer"])

    def check_origin(self, found: str | None, expected: str | None) -> None:
        """Raise InputError where a checkpoint or report is of another origin."""
        if found != expected:
            raise InputError(
                f"{self.path} holds a training in another precision or of an earlier version; "
                "choose another folder with --out."
            )


class ClassifierFolder(TrainingFolder):
    """The folder of a classifier that is trained, or of a surrogate that is stolen.

    Attributes:
        settings_path: the settings, which `decrop certify` takes with the weights.
        weights_path: the trained weights.
        report_path: losses and accuracies, written last; then there is no checkpoint any more.
        answers_path: folder of a black box's answers.
        ledger_path: what was asked of a black box.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.settings_path = path / "settings.yaml"
        self.weights_path = path / "weights.safetensors"
        self.report_path = path / "report.json"
        self.answers_path = path / "answers"
        self.ledger_path = path / "queries.json"

    def read_settings(self) -> TrialConfig | None:
        """Return the settings that the folder was begun with; None before."""
        if not self.settings_path.exists():
            return None
        return trial_config(read_yaml(self.settings_path), source=str(self.settings_path))

    def check_settings(self, config: TrialConfig) -> None:
        """Raise InputError where the folder holds a training with other settings."""
        found = self.read_settings()
        if found is not None and found.without_budget() != config.without_budget():
            raise InputError(
                f"{self.path} holds a training with other settings; choose another folder with "
                "--out."
            )

    def write_settings(self, config: TrialConfig) -> None:
        """Write the settings."""
        document = config.model_dump(mode="json")
        write_text(self.settings_path, yaml.safe_dump(document, sort_keys=False))

    def write_weights(self, weights: Tensors) -> None:
        """Write the trained weights as safetensors."""
        write_tensors(self.weights_path, weights)

    def read_report(self) -> dict[str, Any] | None:
        """Return the report of a finished training; None before."""
        return read_object(self.report_path) if self.report_path.exists() else None

    def finish(self, report: Mapping[str, Any]) -> None:
        """Write the report, and remove what only resuming needs."""
        write_json(self.report_path, report)
        self.checkpoint_path.unlink(missing_ok=True)
        self.history_path.unlink(missing_ok=True)
