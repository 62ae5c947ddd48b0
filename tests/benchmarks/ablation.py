"""The steps from the baseline to DE-CROP and the dead-leaves prior, at equal steps, certified.

    python -m tests.benchmarks.ablation --dataset-path CIFAR10 --classifier RESNET20.safetensors \
        --to FOLDER [--epochs 140] [--seeds 1]

Each row trains a small DnCNN on all limited images of one choice of them and is certified on test
images; rows that follow one another are compared image by image. The last row adds the prior to the
row with the best certified accuracy on held-out images. The same command goes on after it was
killed.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from decrop.cache import ContentCache
from decrop.config import TrialConfig
from decrop.documents import merge, trial_config
from decrop.evaluation.accuracy import certified_correct, exact_interval
from decrop.evaluation.comparison import paired_difference, paired_p_values
from decrop.evaluation.table import CertificateTable
from decrop.inputs import TrialInputs, load_inputs
from decrop.result import Split
from decrop.smoothing.execution import resolve_device
from decrop.trial import run_trial
from decrop.trial_folder import TrialFolder
from tune.tables import TextTable, percentage_cell

PRIOR_ROW = "+ dead-leaves prior"


@dataclass(frozen=True)
class Row:
    """What a row of the table changes in `training`; its phases have `epochs` in all."""

    name: str
    training: dict[str, Any]
    discriminator: bool = False


ROWS = (
    Row("baseline (stability)", {"objective": "stability"}),
    Row("boundary", {"generated_samples": "boundary", "loss_weights": {"mmd": 0}}),
    Row("boundary + interpolated", {"loss_weights": {"mmd": 0}}),
    Row("+ discriminator", {"loss_weights": {"mmd": 0}}, discriminator=True),
    Row("+ discriminator + MMD", {}, discriminator=True),
)


def configuration(
    row: Row, epochs: int, seed: int, dataset: Path, weights: Path, prior_steps: int
) -> TrialConfig:
    """Return the settings of a row: equal steps, one cycle of the learning rate in each phase."""
    with_discriminator = epochs // 2 if row.discriminator else 0
    document: dict[str, Any] = {
        "seed": seed,
        "dataset": {"name": "cifar10", "path": str(dataset)},
        "classifier": {"weights": str(weights)},
        "denoiser": {"depth": 10, "channels": 48},
        "training": {
            "epochs": epochs - with_discriminator,
            "discriminator_epochs": with_discriminator,
            "batch_size": 100,
            "optimizer": "one_cycle",
            "learning_rate": 2e-3,
            "evaluations": 1,
        },
        "certification": {"test_images": 400, "max_samples": 2_000},
    }
    if prior_steps:
        document["prior"] = {"kind": "dead_leaves", "steps": prior_steps}
    return trial_config(merge(document, {"training": row.training}), source=row.name)


def certified(
    config: TrialConfig, inputs: TrialInputs, folder: Path, cache: ContentCache, split: Split
) -> CertificateTable:
    """Train and certify, or read what an earlier run has done."""
    trial = TrialFolder(folder)
    if not trial.result_path.exists():
        for _ in run_trial(config, inputs, trial, cache, split=split):
            pass
    return CertificateTable.read_tsv(trial.certificates_path)


def correct_in(tables: list[CertificateTable], radii: tuple[float, ...]) -> np.ndarray:
    """Return in how many of the tables each image is certified, int64 [R, B]."""
    found = [certified_correct(t.predict, t.radius, t.label, np.asarray(radii)) for t in tables]
    return np.stack(found).astype(np.int64).sum(axis=0)


def text_table(rows: dict[str, list[CertificateTable]], radii: tuple[float, ...]) -> TextTable:
    """Write certified accuracies, and the differences to the row before."""

    def lines() -> Iterator[list[str]]:
        before: np.ndarray | None = None
        for name, tables in rows.items():
            correct = correct_in(tables, radii)
            cells = []
            for position, successes in enumerate(correct):
                share = successes.sum() / (len(tables) * len(successes))
                low, high = exact_interval(round(share * len(successes)), len(successes))
                cell = percentage_cell(share, float(low), float(high))
                if before is not None:
                    difference = paired_difference(correct, before)
                    p = paired_p_values(correct, before)[position]
                    cell += f"; {difference.points[position]:+.1f}, p = {p:.2g}"
                cells.append(cell)
            samples = np.mean([t.samples.mean() for t in tables if t.samples is not None])
            yield [name, *cells, f"{samples:,.0f}"]
            before = correct

    seeds = len(next(iter(rows.values())))
    caption = (
        f"Certified accuracy on test images in % (95 % interval); difference to the row above in "
        f"points and its paired p. {seeds} seed{'s' if seeds > 1 else ''} a row."
    )
    head = ["row", *(f"r = {radius:g}" for radius in radii), "samples an image"]
    return TextTable(caption, head, list(lines()))


def main(
    dataset_path: Annotated[Path, typer.Option(help="Folder of CIFAR-10.")],
    classifier: Annotated[Path, typer.Option(help="Weights of the classifier.")],
    to: Annotated[Path, typer.Option(help="Folder of the runs.")],
    epochs: Annotated[int, typer.Option(help="Of 5 steps, in all phases of a row.")] = 280,
    seeds: Annotated[int, typer.Option(help="Trainings of each row.")] = 1,
    prior_steps: Annotated[int, typer.Option(help="Of 100 images.")] = 700,
) -> None:
    """Train and certify all rows, and print the table."""
    first = configuration(ROWS[0], epochs, 0, dataset_path, classifier, 0)
    device = resolve_device(first.execution.device)
    cache = ContentCache(to / "cache")
    inputs = load_inputs(first, cache, device)
    radii = first.certification.radii
    tables: dict[str, list[CertificateTable]] = {}
    held_out: dict[str, float] = {}

    def run(row: Row, name: str, steps: int) -> None:
        tables[name] = []
        for seed in range(seeds):
            config = configuration(row, epochs, seed, dataset_path, classifier, steps)
            folder = to / f"{name}, seed {seed}"
            if steps == 0:
                # Which row is best is asked of held-out images alone.
                scored = certified(config, inputs, folder / "held_out", cache, "held_out")
                right = scored.predict == scored.label
                held_out[name] = held_out.get(name, 0.0) + float((scored.radius * right).mean())
            tables[name].append(certified(config, inputs, folder / "test", cache, "test"))
            print(f"{name}, seed {seed}: done", flush=True)

    for row in ROWS:
        run(row, row.name, 0)
    best = max(held_out, key=lambda name: held_out[name])
    run(next(row for row in ROWS if row.name == best), f"{best} {PRIOR_ROW}", prior_steps)
    print(json.dumps({"held_out_average_certified_radius": held_out, "best": best}))
    print(text_table(tables, radii).markdown())


if __name__ == "__main__":
    typer.run(main)
