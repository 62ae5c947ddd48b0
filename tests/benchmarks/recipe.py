"""What the recommended recipe is worth: the table of README, row by row.

    python -m tests.benchmarks.recipe --dataset-path CIFAR10 --classifier RESNET20.safetensors \
        --ffdnet FFDNET.safetensors --out FOLDER [--images 50,100,250] [--json]

Rows: the recommended recipe without any outside image; that from FFDNet; the paper's settings for
as many seconds of CPU time as the first takes, by the time of a step that is measured before;
FFDNet as it is; no denoiser. Test images are certified once, at the end, by the product's own
trials (adaptive, at most 20,000 samples, grid noise).

With `--held-out`, other images of the training split are certified in place of test images, which
choose nothing, with at most 1,000 samples: so variants are found, each with `--set` and in a folder
of its own. `decrop compare` takes the certificates in these folders.

Hours of work: what was done by an earlier command in FOLDER is not done again, and a training or
certification that was cut off goes on. `--rows` and `--seeds` take parts of it; `--shown` prints
what is finished and does nothing.
"""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer

from decrop.cache import ContentCache
from decrop.cli.options import change, load_trial
from decrop.cli.output import console, progress_bars
from decrop.config import TrialConfig
from decrop.data.images import ImageSource
from decrop.data.limited import LabelledImages, take
from decrop.evaluation.accuracy import certified_correct, exact_interval
from decrop.evaluation.table import CertificateTable
from decrop.files import read_object, write_json
from decrop.networks.denoised import DenoisedClassifier
from decrop.seeds import numpy_generator
from decrop.smoothing.execution import resolve_device, resolve_precision
from decrop.synthesis.synthetic_samples import SyntheticSamples
from decrop.training.denoiser import DenoiserTrainer, initial_denoiser
from decrop.training.loop import AnyTrainer
from decrop.training.prior import Prior, PriorTrainer
from decrop.training.schedule import steps_an_epoch
from decrop.trial.certify import CertificationTask, certify, with_recorded_batch_size
from decrop.trial.folder import TrialFolder
from decrop.trial.inputs import TrialInputs
from decrop.trial.prepare import Preparation
from decrop.trial.run import certify_undefended, run_trial

RECOMMENDED, FROM_FFDNET, PAPER = "recommended", "recommended from FFDNet", "the paper's settings"
UNTOUCHED, NONE = "FFDNet as it is", "no denoiser"
ROWS = (RECOMMENDED, FROM_FFDNET, PAPER, UNTOUCHED, NONE)
# Steps that are timed, after one more.
TIMED_STEPS = 3
CIFAR10_TRAINING_IMAGES = 50_000


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: of `ROWS`, and the number of images where it is not the preset's.
        kind: of `ROWS`.
        config: settings of seed 0; those of a training before its time is known.
    """

    name: str
    kind: str
    config: TrialConfig

    @property
    def slug(self) -> str:
        """The row's folder."""
        return "".join(c if c.isalnum() else "_" for c in self.name.lower())

    def of_seed(self, seed: int) -> TrialConfig:
        """Return the settings of a seed, which chooses the limited images too."""
        return change(self.config, [f"seed={seed}", f"limited.seed={seed}"])


def rows_of(
    given: list[str], ffdnet: Path | None, images: Iterable[int], wanted: Iterable[str]
) -> list[Row]:
    """Return the rows that are asked for.

    Args:
        given: assignments of data, classifier and measuring, for all rows.
        ffdnet: its published weights; without them it has no rows.
        images: further numbers of limited images to train the recommended recipe on.
        wanted: of `ROWS`.
    """
    recommended = load_trial("recommended", given)
    found = {
        RECOMMENDED: recommended,
        PAPER: load_trial("cifar10", given),
        NONE: recommended,
    }
    if ffdnet is not None:
        from_ffdnet = load_trial("recommended_ffdnet", [f"denoiser.weights={ffdnet}", *given])
        found |= {FROM_FFDNET: from_ffdnet, UNTOUCHED: from_ffdnet}
    rows = [Row(name, name, found[name]) for name in ROWS if name in wanted and name in found]
    for count in images:
        config = change(recommended, [f"limited.fraction={count / CIFAR10_TRAINING_IMAGES}"])
        rows.append(Row(f"{RECOMMENDED}, {count} images", RECOMMENDED, config))
    return rows


def held_out_images(train: ImageSource, limited: LabelledImages, count: int) -> LabelledImages:
    """Take `count` images of a training split, always the same, none of them limited."""
    others = np.setdiff1d(np.arange(len(train.labels)), limited.indices.numpy())
    chosen = numpy_generator(0, "held-out images of the recipe").choice(
        others, count, replace=False
    )
    return take(train, torch.from_numpy(np.sort(chosen)))


# Of the prior, of the training's phase of squared error, of its other phases.
Costs = tuple[float, float, float]
Steps = tuple[int, int, int]


def seconds_a_step(config: TrialConfig, inputs: TrialInputs) -> Costs:
    """Measure the CPU seconds of a step of each part; 0 for one that there is not."""
    device = resolve_device(config.execution.device)
    images = inputs.limited.all.images.float() / 255
    stand_in = SyntheticSamples(
        images,
        images,
        torch.ones(len(images), dtype=torch.bool),
        images[None].repeat(config.interpolation.count, 1, 1, 1, 1),
        torch.zeros(config.interpolation.count, len(images)),
    )
    prior = 0.0
    if config.pretrains_denoiser:
        channels, height, width = images.shape[1:]
        precision = resolve_precision(config.execution.training_precision, device)
        shape = (channels, height, width)
        made = Prior(config.prior, config.denoiser, config.sigma, shape, config.seed, precision)
        prior = _timed(PriorTrainer(made, device))

    def trained(config: TrialConfig) -> float:
        return _timed(DenoiserTrainer(config, inputs.classifier, stand_in, device))

    squared_error = trained(config) if config.training.mse_epochs else 0.0
    return prior, squared_error, trained(change(config, ["training.mse_epochs=0"]))


def _timed(trainer: AnyTrainer) -> float:
    trainer.step()
    started = time.process_time()
    for _ in range(TIMED_STEPS):
        trainer.step()
    return (time.process_time() - started) / TIMED_STEPS


def steps_of(config: TrialConfig, images: int) -> Steps:
    """Return the steps of each part on so many images."""
    prior = config.prior.steps if config.pretrains_denoiser else 0
    squared_error, *others = config.training.phase_epochs
    an_epoch = steps_an_epoch(images, config.training.batch_size)
    return prior, squared_error * an_epoch, sum(others) * an_epoch


def with_training_steps(config: TrialConfig, images: int, steps: float) -> TrialConfig:
    """Return the settings with as many epochs as come to so many steps, in the same phases.

    Drops of the learning rate, and the change of the optimiser, come at the same share of a phase.
    """
    training = config.training
    factor = steps / sum(steps_of(config, images)[1:])

    def scaled(epochs: int, least: int = 1) -> int:
        return max(least, round(epochs * factor))

    changes = {
        "epochs": scaled(training.epochs),
        "mse_epochs": scaled(training.mse_epochs, 0),
        "discriminator_epochs": scaled(training.discriminator_epochs, 0),
        "learning_rate_drop_every": scaled(training.learning_rate_drop_every),
        "adam_epochs": scaled(training.adam_epochs),
    }
    return change(config, [f"training.{name}={value}" for name, value in changes.items()])


def with_equal_time(config: TrialConfig, images: int, costs: Costs, seconds: float) -> TrialConfig:
    """Return the settings with as many epochs as take so many CPU seconds, prior included."""
    prior, *training = steps_of(config, images)
    factor = (seconds - prior * costs[0]) / float(np.dot(training, costs[1:]))
    return with_training_steps(config, images, factor * sum(training))


def certify_as_it_is(config: TrialConfig, inputs: TrialInputs, folder: TrialFolder) -> None:
    """Certify the denoiser that the settings name, without any training."""
    if folder.certificates_path.exists():
        return
    folder.write_config(config)
    denoiser = initial_denoiser(
        config.denoiser,
        image_channels=inputs.test.images.shape[1],
        sigma=config.sigma,
        seed=config.seed,
        device=resolve_device(config.execution.device),
    )
    network = DenoisedClassifier(
        denoiser.eval(), inputs.protected, mirrored=config.denoiser.mirrored
    )
    task = CertificationTask(network, inputs.test, "test", inputs.classifier.class_count)
    config = with_recorded_batch_size(config, task, folder.execution_path)
    with progress_bars() as bars:
        found = certify(
            config,
            task,
            estimation_samples=config.certification.most_estimation_samples,
            journal=folder.counts_path,
            hooks=bars.hooks(UNTOUCHED),
        )
    found.table.write(folder.certificates_path)


def summary(
    tables: Mapping[int, CertificateTable], radii: Iterable[float]
) -> dict[str, dict[str, Any]]:
    """Return certified accuracy at each radius: mean over seeds, its interval, and each seed's.

    The interval is the exact one of the mean as a share of the test images: for one seed it is that
    of its accuracy, and with several, which vary less together, it is wider than need be.
    """
    found = {}
    for radius in radii:
        by_seed = {
            seed: float(
                certified_correct(table.predict, table.radius, table.label, [radius]).mean()
            )
            for seed, table in tables.items()
        }
        mean = float(np.mean(list(by_seed.values())))
        count = len(next(iter(tables.values())).idx)
        low, high = exact_interval(round(mean * count), count)
        found[repr(radius)] = {
            "mean": mean,
            "interval": [float(low), float(high)],
            "by_seed": by_seed,
        }
    return found


def table_of(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text, in %."""

    def cell(found: dict[str, Any]) -> str:
        low, high = found["interval"]
        seeds = " ".join(f"{100 * a:.1f}" for a in found["by_seed"].values())
        several = f" [{seeds}]" if len(found["by_seed"]) > 1 else ""
        return f"{100 * found['mean']:.1f} ({100 * low:.1f}-{100 * high:.1f}){several}"

    columns = [
        {
            "row": row["row"],
            **{f"r = {r}": cell(found) for r, found in row["certified_accuracy"].items()},
            "training, CPU minutes": ""
            if row["cpu_minutes"] is None
            else f"{row['cpu_minutes']:.0f}",
        }
        for row in rows
    ]
    return pd.DataFrame(columns).to_string(index=False)


def main(
    dataset_path: Annotated[Path, typer.Option(help="Folder of CIFAR-10.")],
    classifier: Annotated[Path, typer.Option(help="Weights of the plain ResNet-20.")],
    out: Annotated[Path, typer.Option(help="Folder for trials and table.")],
    ffdnet: Annotated[Path | None, typer.Option(help="FFDNet's published weights.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of the trained rows.")] = "0,1,2",
    rows: Annotated[str, typer.Option(help=f"Of: {'; '.join(ROWS)}.")] = ";".join(ROWS),
    images: Annotated[str, typer.Option(help="Further numbers of images, first seed.")] = "",
    test_images: Annotated[int, typer.Option(help="Test images.")] = 500,
    held_out: Annotated[bool, typer.Option("--held-out", help="Certify training images.")] = False,
    setting: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE for all.")] = None,
    shown: Annotated[bool, typer.Option(help="Print what is finished, and do nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train and certify the rows, and print the table."""
    given = [
        f"dataset.path={dataset_path}",
        f"classifier.weights={classifier}",
        f"certification.test_images={test_images}",
        # Fewer could not certify r = 0.5 at sigma 0.25.
        *(["certification.max_samples=1000"] if held_out else []),
        *(setting or []),
    ]
    counts = [int(count) for count in images.split(",") if count]
    asked = rows_of(given, ffdnet, counts, rows.split(";"))
    all_seeds = [int(seed) for seed in seeds.split(",")]
    run = _Run(out, given, ffdnet, held_out)
    found: list[dict[str, Any]] = []
    for row in asked:
        further = row.name != row.kind
        own_seeds = all_seeds[:1] if row.kind in (UNTOUCHED, NONE) or further else all_seeds
        tables = {}
        for seed in own_seeds:
            folder = TrialFolder(out / row.slug / f"seed_{seed}")
            if not shown:
                run.finish(row, seed, folder)
            if folder.certificates_path.exists():
                tables[seed] = CertificateTable.read_tsv(folder.certificates_path)
        if tables:
            trained = row.kind not in (UNTOUCHED, NONE)
            found.append(
                {
                    "row": row.name,
                    "certified_accuracy": summary(tables, row.config.certification.radii),
                    "cpu_minutes": run.seconds(row.kind) / 60 if trained else None,
                }
            )
            write_json(out / "rows.json", found)
    print(json.dumps(found) if as_json else table_of(found))


class _Run:
    """Trials in a folder, with what they share."""

    def __init__(self, out: Path, given: list[str], ffdnet: Path | None, held_out: bool) -> None:
        self._given = given
        self._ffdnet = ffdnet
        self._held_out = held_out
        self._cache = ContentCache(out / "cache")
        self._preparation = Preparation()
        self._costs_path = out / "costs.json"

    def seconds(self, kind: str) -> float:
        """CPU seconds of a row's training."""
        # What is not one of the recipes takes as long as the first.
        costs = self._costs(kind if kind == FROM_FFDNET else RECOMMENDED)
        return float(np.dot(costs["a_step"], costs["steps"]))

    def finish(self, row: Row, seed: int, folder: TrialFolder) -> None:
        """Do what is left of a trial."""
        config = row.of_seed(seed)
        device = resolve_device(config.execution.device)
        inputs = self._preparation.trial(config).load(self._cache, device)
        if self._held_out:
            train = self._preparation.dataset(config.dataset).train
            count = config.certification.test_images
            inputs = replace(inputs, test=held_out_images(train, inputs.limited.all, count))
        if row.kind == NONE:
            with progress_bars() as bars:
                certify_undefended(config, inputs, folder, hooks=bars.hooks(NONE))
            return
        if row.kind == UNTOUCHED:
            certify_as_it_is(config, inputs, folder)
            return
        count, costs = len(inputs.limited.all), self._costs(row.kind)
        if row.kind == PAPER:
            config = with_equal_time(config, count, costs["a_step"], self.seconds(RECOMMENDED))
        else:
            # As many steps whatever the number of images.
            config = with_training_steps(config, count, sum(costs["steps"][1:]))
        with progress_bars() as bars:
            list(
                run_trial(
                    config,
                    inputs,
                    folder,
                    self._cache,
                    split="test",
                    hooks=bars.hooks(f"{row.name}, seed {seed}"),
                )
            )
        console.print(f"{row.name}, seed {seed}: {folder.path}", highlight=False)

    def _costs(self, kind: str) -> dict[str, Any]:
        """Return seconds a step, and steps, of each part of a row as the preset has it.

        They are measured once, so that a command that goes on finds the same epochs.
        """
        found = read_object(self._costs_path)
        if kind not in found:
            (row,) = rows_of(self._given, self._ffdnet, (), [kind])
            device = resolve_device(row.config.execution.device)
            inputs = self._preparation.trial(row.config).load(self._cache, device)
            found[kind] = {
                "a_step": seconds_a_step(row.config, inputs),
                "steps": steps_of(row.config, len(inputs.limited.all)),
            }
            write_json(self._costs_path, found)
        costs: dict[str, Any] = found[kind]
        return costs


if __name__ == "__main__":
    typer.run(main)
