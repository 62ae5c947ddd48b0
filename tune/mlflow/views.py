"""What MLflow should show of a sweep directory, read from its files (no MLflow here)."""

from collections.abc import Iterator

from tune.directory import SweepDirectory, SweepRecord
from tune.mlflow.page import page_state, sweep_description
from tune.mlflow.run_view import Input, Measurement, RunView, Stamp
from tune.mlflow.sweep_view import SweepSource, best_so_far
from tune.mlflow.training_view import ClassifierTrainingSource, RejectorTrainingSource
from tune.mlflow.trial_view import TrialSource, UndefendedSource, certified_curve, flatten_config

__all__ = [
    "Input",
    "Measurement",
    "RunView",
    "Source",
    "Stamp",
    "best_so_far",
    "certified_curve",
    "flatten_config",
    "page_state",
    "sources",
    "sweep_description",
]

Source = (
    TrialSource | UndefendedSource | SweepSource | ClassifierTrainingSource | RejectorTrainingSource
)


def sources(directory: SweepDirectory, record: SweepRecord) -> Iterator[Source]:
    """List everything in a sweep directory that becomes a run."""
    for number in directory.trial_numbers():
        yield TrialSource(f"trials/{number}", f"trial {number}", "trial", directory.trial(number))
    for number in directory.final_numbers():
        yield TrialSource(
            f"final/{number}", f"final {number} (test)", "final", directory.final(number)
        )
        for seed in directory.retrained_seeds(number):
            yield TrialSource(
                f"final/{number}/seeds/{seed}",
                f"final {number}, seed {seed} (test)",
                "seed",
                directory.retraining(number, seed),
            )
    yield UndefendedSource(directory.undefended, directory.trial(0))
    yield SweepSource(directory, record)
