"""Sweep directories as trials on any host leave them, written file by file."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from decrop.config import TrialConfig
from decrop.evaluation.table import CertificateTable, Shares
from decrop.files import write_json, write_text
from tune.directory import State, SweepDirectory, SweepTrialFolder, TrialRecord, TrialState
from tune.results.board import Entry, HeldOut, Leaderboard
from tune.results.tables import leaderboard_markdown
from tune.sweep_file import SweepConfig

STARTED = datetime(2025, 3, 1, 12, 0, 0, tzinfo=UTC)
ENDED = STARTED + timedelta(minutes=5)
LOSSES = ("label_consistency", "cosine_similarity", "mmd")

# Ten images: 7 right with these radii, 1 wrong with a large radius, 2 abstentions.
RIGHT_RADII = (0.1, 0.2, 0.25, 0.4, 0.5, 0.8, 1.2)
CERTIFICATES = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n" + "".join(
    [f"{index}\t3\t3\t{radius}\t1\t0:00:01\n" for index, radius in enumerate(RIGHT_RADII)]
    + ["7\t3\t5\t0.9\t0\t0:00:01\n", "8\t3\t-1\t0.0\t0\t0:00:01\n", "9\t3\t-1\t0.0\t0\t0:00:01\n"]
)


def robust_table(robust: Iterable[int], samples: int | None = None) -> CertificateTable:
    """Certify images 0 to 19 of class 3: correct with radius 0.3 where robust, else with 0.1."""
    radius = np.full(20, 0.1)
    radius[list(robust)] = 0.3
    return CertificateTable(
        idx=np.arange(20),
        label=np.full(20, 3),
        predict=np.full(20, 3),
        radius=radius,
        seconds=np.zeros(20),
        samples=None if samples is None else np.full(20, samples),
    )


def make_sweep(parent: Path, name: str = "digits", **given: Any) -> SweepDirectory:
    searched = {"space": {"sigma": {"choice": [0.25, 0.5]}}, "trials": 3}
    document = {"name": name, **({"search": "rows"} if "rows" in given else searched), **given}
    return SweepDirectory.create(parent, SweepConfig.model_validate(document))


def history_row(epoch: int, phase: int = 1) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "phase": phase,
        "learning_rate": 0.001,
        **dict.fromkeys(LOSSES, 1.0 / epoch),
        "discriminator": None if phase == 1 else 0.7,
        "total": 3.0 / epoch,
        "seconds": 2.0,
    }


def report_row(evaluation: int, finished: bool = False) -> dict[str, Any]:
    return {
        "evaluation": evaluation,
        "epoch": evaluation,
        "average_certified_radius": 0.1 * evaluation,
        "certified_accuracy": {"0.0": 0.5, "0.25": 0.05 * evaluation},
        "finished": finished,
        "area_under_curve": 0.1 * evaluation,
    }


def result(split: str = "held_out", radius: float = 0.3) -> dict[str, Any]:
    return {
        "split": split,
        "images": 10,
        "average_certified_radius": radius,
        "certified_accuracy": {"0.0": 0.7, "0.25": 0.5},
        "abstention_rate": 0.2,
        "area_under_curve": radius,
        "radius_error": 0.01,
        "clean_accuracy": 0.9,
        "flip_rate": 0.95,
        "precision": "fp32",
        "device": "cpu",
        "chunks_per_batch": 4,
        "image_shape": [3, 32, 32],
        "hashes": {"classifier": "c" * 64, "dataset": "d" * 64},
        "seconds": {"stage1": 1.5, "training": 6.0, "certification": 3.25},
    }


def begin(folder: SweepTrialFolder, number: int, config: TrialConfig | None = None) -> None:
    """Write what is there from a trial's first moment."""
    folder.write_record(
        TrialRecord(
            number=number,
            reference=number == 0,
            parameters={"sigma": 0.25},
            config=config or TrialConfig(),
        )
    )
    folder.write_state(TrialState(state="running", started=STARTED))


def end(folder: SweepTrialFolder, state: State = "complete", error: str | None = None) -> None:
    folder.write_state(TrialState(state=state, started=STARTED, ended=ENDED, error=error))


def write_progress(folder: SweepTrialFolder, epochs: int, evaluations: int) -> None:
    write_json(folder.history_path, [history_row(epoch) for epoch in range(1, epochs + 1)])
    write_json(folder.reports_path, [report_row(number) for number in range(1, evaluations + 1)])


def write_outcome(folder: SweepTrialFolder, split: str = "held_out", radius: float = 0.3) -> None:
    write_text(folder.certificates_path, CERTIFICATES)
    folder.figures_path.mkdir(exist_ok=True)
    (folder.figures_path / "certified_accuracy.png").write_bytes(b"\x89PNG curve")
    save_file({"weight": torch.arange(6.0)}, folder.denoiser_path)
    (folder.path / "checkpoint.pt").write_bytes(b"state of the optimiser")
    write_json(folder.result_path, result(split, radius))


def write_board(directory: SweepDirectory) -> Leaderboard:
    """Write a leaderboard of trial 1, whatever the directory has."""
    accuracy = {"0.0": 0.7, "0.25": 0.615}
    intervals = {"0.0": (0.6, 0.8), "0.25": (0.54, 0.68)}
    test = {**result("test"), "certified_accuracy": accuracy}
    board = Leaderboard(
        radii=(0.0, 0.25),
        by="average_certified_radius",
        held_out=[HeldOut(1, 1, 0.3, 0.3, {"0.0": 0.7, "0.25": 0.5}, certified=True)],
        entries=[Entry(1, 1, 0.3, test, Shares(0.7, 0.1, 0.2), intervals, None, None)],
        undefended=None,
        summary="Trial 1 won.",
    )
    write_json(directory.leaderboard_json_path, asdict(board))
    write_text(directory.leaderboard_markdown_path, leaderboard_markdown(board))
    return board


def write_complete_trial(
    folder: SweepTrialFolder,
    number: int,
    epochs: int = 3,
    split: str = "held_out",
    radius: float = 0.3,
) -> None:
    begin(folder, number)
    write_progress(folder, epochs, evaluations=2 if split == "held_out" else 0)
    write_outcome(folder, split, radius)
    end(folder)
