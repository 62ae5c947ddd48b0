"""Sweep directories with hand-made certificates, of which every number can be worked out."""

from collections.abc import Iterable
from pathlib import Path

from decrop.config import TrialConfig
from decrop.files import write_json
from decrop.trial.result import Scores, TrialResult
from tests.tune.sweeps import begin, end, make_sweep, result, robust_table, write_outcome
from tune.directory import State, SweepDirectory, SweepTrialFolder

RADII = (0.0, 0.25)
CONFIG = TrialConfig.model_validate({"certification": {"radii": RADII}})


def write_test_outcome(folder: SweepTrialFolder, robust: Iterable[int]) -> None:
    """Certify images 0 to 19 of class 3: correct with radius 0.3 where robust, else 0.1."""
    table = robust_table(robust)
    folder.path.mkdir(parents=True)
    table.write_tsv(folder.certificates_path)
    outcome = TrialResult(
        split="test",
        scores=Scores.of(table, RADII),
        clean_accuracy=0.95,
        flip_rate=None,
        precision="fp32",
        device="cpu",
        chunks_per_batch=4,
        hashes={},
        seconds={"certification": 2.0, "noisy_image": 0.00123456},
        image_shape=(3, 32, 32),
    )
    write_json(folder.result_path, outcome.to_json())


def sweep_with(
    parent: Path,
    held_out: dict[int, float],
    robust: dict[int, Iterable[int]],
    undefended: Iterable[int] = range(6),
    accuracies: dict[int, float] | None = None,
) -> SweepDirectory:
    """Make a sweep: held-out radii, and accuracies at r = 0.25; images robust on test, by trial."""
    directory = make_sweep(parent)
    for number, radius in held_out.items():
        add_trial(directory, number, "complete", radius, accuracy=(accuracies or {}).get(number))
    for number, images in robust.items():
        write_test_outcome(directory.final(number), images)
    write_test_outcome(directory.undefended, undefended)
    return directory


def add_trial(
    directory: SweepDirectory,
    number: int,
    state: State,
    radius: float,
    accuracy: float | None = None,
) -> None:
    """Write a trial with its held-out average certified radius, and accuracy at r = 0.25."""
    folder = directory.trial(number)
    begin(folder, number, CONFIG)
    write_outcome(folder, radius=radius)
    if accuracy is not None:
        document = result(radius=radius)
        document["certified_accuracy"]["0.25"] = accuracy
        write_json(folder.result_path, document)
    if state != "running":
        end(folder, state, error="it broke" if state == "failed" else None)
