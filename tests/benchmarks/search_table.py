"""The table of trials that `tests.benchmarks.search` simulates sweeps with.

    nice -n 10 python -m tests.benchmarks.search_table --trials 304 --processes 2

Row n has the settings that a random search of the quickstart tries as trial n, and the held-out
scores of all its evaluations. A trial is the quickstart's, made cheaper: fewer
images, steps and noise samples (`SMALLER`). Rows go to a file of lines beside the table as they are
made, so that a call that is broken off goes on where it was; the table is written at the end.
"""

import gzip
import json
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer

from decrop.cache import ContentCache
from decrop.documents import set_dotted
from decrop.trial.folder import TrialFolder
from decrop.trial.inputs import TrialInputs
from decrop.trial.prepare import load_inputs
from decrop.trial.run import run_trial
from tune.space import reference_config, reference_parameters, trial_config_for
from tune.study import propose
from tune.sweep_file import SweepConfig, load_sweep

TABLE = Path(__file__).parent / "data" / "search_table.json.gz"
# Of the searches' costs only their ratio counts. Batches are smaller with the limited data; a few
# values of the attacks' bounds and steps let trials share boundary samples.
SMALLER = (
    "search=random",
    "points_to_evaluate=[]",
    "limited.fraction=0.08",
    "limited.held_out_fraction=0.33",
    "training.epochs=8",
    "certification.procedure=fixed",
    "certification.selection_samples=10",
    "certification.pruning_samples=40",
    "certification.held_out_samples=100",
    "space.training.batch_size={choice: [35, 70]}",
    "space.boundary.epsilon={choice: [0.05, 0.1, 0.2], "
    "when: {boundary.attack: [pgd, auto_attack]}}",
    "space.boundary.steps={choice: [5, 10, 20], when: {boundary.attack: pgd}}",
    "space.interpolation.steps={choice: [10, 25]}",
)
_BATCH_SIZE = 70
# What the quickstart has varied since the table was made.
_LEFT_OUT = "training.mse_epochs"


@dataclass(frozen=True)
class TableRow:
    """A trial with all its evaluations.

    Attributes:
        number: of the trial; 0 has the settings of the reference.
        parameters: by dotted path.
        average_certified_radius: on held-out images, at each evaluation.
        certified_accuracy: likewise, by radius.
        clean_accuracy: on held-out images, at the end.
        seconds: on one core of the machine that made the table, shared with other work.
    """

    number: int
    parameters: dict[str, Any]
    average_certified_radius: list[float]
    certified_accuracy: list[dict[str, float]]
    clean_accuracy: float
    seconds: float


def table_sweep(trials: int) -> SweepConfig:
    """Return the quickstart as a random search over small trials."""
    sweep = load_sweep("quickstart", [*SMALLER, f"trials={trials}"])
    trial = set_dotted(sweep.trial, "training.batch_size", _BATCH_SIZE)
    space = {path: domain for path, domain in sweep.space.items() if path != _LEFT_OUT}
    return sweep.model_copy(update={"trial": trial, "space": space})


def make_row(
    sweep: SweepConfig, number: int, inputs: TrialInputs, cache: ContentCache, folder: Path
) -> TableRow:
    """Run the trial of a number."""
    parameters: Mapping[str, Any] = reference_parameters(sweep)
    config = reference_config(sweep)
    if number > 0:
        parameters = propose(sweep, number, [], {})
        config = trial_config_for(sweep, parameters)
    started = time.process_time()
    trial = TrialFolder(folder / str(number))
    # Figures take as long as the training.
    with patch("decrop.trial.folder.save_figure", lambda *_: None):
        reports = list(run_trial(config, inputs, trial, cache, split="held_out"))
    result = trial.result
    assert result is not None
    return TableRow(
        number=number,
        parameters=dict(parameters),
        average_certified_radius=[report.average_certified_radius for report in reports],
        certified_accuracy=[dict(report.certified_accuracy) for report in reports],
        clean_accuracy=result.clean_accuracy,
        seconds=round(time.process_time() - started, 2),
    )


def read_table(path: Path = TABLE) -> list[TableRow]:
    """Read the rows of a table."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [TableRow(**row) for row in json.load(file)]


def main(
    trials: Annotated[int, typer.Option(min=1, help="Rows.")] = 304,
    out: Annotated[Path, typer.Option(help="The table, *.json.gz.")] = TABLE,
    processes: Annotated[int, typer.Option(min=1, help="Of one thread each.")] = 1,
) -> None:
    """Make the table, and say how far it is."""
    lines = out.with_suffix(".lines")
    done = len(lines.read_text().splitlines()) if lines.exists() else 0
    with ProcessPoolExecutor(processes, get_context("spawn"), _begin, (trials,)) as pool:
        made = pool.map(_make, range(done, trials))
        with lines.open("a", encoding="utf-8") as file:
            for row in made:
                file.write(json.dumps(asdict(row)) + "\n")
                file.flush()
                radii = [round(radius, 3) for radius in row.average_certified_radius]
                print(row.number, row.seconds, radii, flush=True)
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    # Without the time of writing, so that the same rows are the same file.
    out.write_bytes(gzip.compress(json.dumps(rows).encode(), mtime=0))


@dataclass(frozen=True)
class _Worker:
    sweep: SweepConfig
    inputs: TrialInputs
    cache: ContentCache
    folder: Path


_worker: _Worker


def _begin(trials: int) -> None:
    global _worker
    torch.set_num_threads(1)
    sweep, folder = table_sweep(trials), Path(mkdtemp(prefix="search-table-"))
    cache = ContentCache(folder / "cache")
    inputs = load_inputs(reference_config(sweep), cache, torch.device("cpu"))
    _worker = _Worker(sweep, inputs, cache, folder)


def _make(number: int) -> TableRow:
    return make_row(_worker.sweep, number, _worker.inputs, _worker.cache, _worker.folder)


if __name__ == "__main__":
    typer.run(main)
