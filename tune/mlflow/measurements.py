"""The metrics of a trial's run in MLflow, read from its tables."""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from decrop.evaluation.accuracy import certified_accuracy
from decrop.evaluation.table import CertificateTable
from tune.directory import SweepTrialFolder, TrialState
from tune.finished_trials import read_outcome
from tune.mlflow.run_view import CERTIFIED, CURVE_RADIUS, Measurement, is_number, objective_key
from tune.results.metric import Metric

CURVE_SPACING = 0.05
CURVE_LEAST_EXTENT = 1.0
STEPS_PER_UNIT_RADIUS = 1000

_HISTORY_COLUMNS_NOT_LOGGED = ("epoch", "phase")


def certified_curve(table: CertificateTable) -> list[tuple[int, float]]:
    """Compute certified accuracy on a grid of 0.05 down to 0, at least to radius 1.

    Returns:
        pairs of radius × 1000 and certified accuracy in [0,1]; [] where nothing was certified.
    """
    if not len(table.idx):
        return []
    # The first place of the grid that nothing reaches; rounded, for a radius may lie on the grid.
    reached = math.floor(round(float(table.radius.max()) / CURVE_SPACING, 9))
    last = max(reached + 1, round(CURVE_LEAST_EXTENT / CURVE_SPACING))
    steps = [round(index * CURVE_SPACING * STEPS_PER_UNIT_RADIUS) for index in range(last + 1)]
    radii = [step / STEPS_PER_UNIT_RADIUS for step in steps]
    accuracies = certified_accuracy(table.predict, table.radius, table.label, radii)
    return [(step, float(accuracy)) for step, accuracy in zip(steps, accuracies, strict=True)]


def epoch_times(started: datetime, history: list[dict[str, Any]]) -> dict[int, datetime]:
    """Return when each epoch ended, had nothing but epochs taken time."""
    # Derived from the files, so that logging the same epoch twice gives the very same point.
    times, elapsed = {}, 0.0
    for row in history:
        elapsed += float(row.get("seconds") or 0.0)
        times[int(row["epoch"])] = started + timedelta(seconds=elapsed)
    return times


def history_measurements(
    history: list[dict[str, Any]], times: Mapping[int, datetime]
) -> list[Measurement]:
    """Return the points of what each epoch recorded."""
    return [
        Measurement(f"train/{name}", float(value), int(row["epoch"]), times[int(row["epoch"])])
        for row in history
        for name, value in row.items()
        if name not in _HISTORY_COLUMNS_NOT_LOGGED and is_number(value)
    ]


def report_measurements(
    reports: list[dict[str, Any]], times: Mapping[int, datetime], started: datetime
) -> list[Measurement]:
    """Return the points of the held-out scores."""
    return [
        Measurement(name, value, int(row["evaluation"]), times.get(int(row["epoch"]), started))
        for row in reports
        for name, value in _scores("held_out", row)
    ]


def objective_measurements(
    folder: SweepTrialFolder,
    objectives: Sequence[Metric],
    reports: Sequence[dict[str, Any]],
    times: Mapping[int, datetime],
    state: TrialState,
) -> list[Measurement]:
    """Return the points of what a sweep searches for, unless it is the average radius alone."""
    if all(metric == Metric() for metric in objectives):
        return []
    outcome = read_outcome(folder)
    points = [
        Measurement(
            objective_key(metric),
            metric.score(row),
            int(row["evaluation"]),
            times.get(int(row["epoch"]), state.started),
        )
        for metric in objectives
        if metric.while_training
        for row in reports
    ]
    if outcome is not None and reports:
        step = int(reports[-1]["evaluation"])
        points += [
            Measurement(
                objective_key(metric), metric.score(outcome), step, state.ended or state.started
            )
            for metric in objectives
            if not metric.while_training
        ]
    return points


def result_measurements(
    certificates: CertificateTable | None, result: dict[str, Any], time: datetime
) -> list[Measurement]:
    """Return the points of a `result.json` and, where there are any, of the certificates' curve."""
    split = result["split"]
    named = [(f"{split}/{name}", result.get(name)) for name in ("images", "clean_accuracy")]
    named.append((f"{split}/abstention_rate", result.get("abstention_rate")))
    named.append(("stage1/flip_rate", result.get("flip_rate")))
    named += [(f"seconds/{name}", value) for name, value in result.get("seconds", {}).items()]
    if split != "held_out":  # The last held-out score is a report already.
        named += _scores(split, result)
        for sigma, scores in (result.get("by_sigma") or {}).items():
            named += _scores(f"{split}_sigma_{sigma}", scores)
        named += _scores(f"{split}_envelope", result.get("envelope") or {})
    measurements = [
        Measurement(name, float(value), 0, time) for name, value in named if is_number(value)
    ]
    if certificates is not None:
        for step, accuracy in certified_curve(certificates):
            radius = step / STEPS_PER_UNIT_RADIUS
            measurements.append(Measurement(f"{CERTIFIED}/{split}", accuracy, step, time))
            measurements.append(Measurement(CURVE_RADIUS, radius, step, time))
    return measurements


def _scores(split: str, row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name in ("average_certified_radius", "area_under_curve"):
        if is_number(row.get(name)):
            yield f"{split}/{name}", float(row[name])
    for radius, accuracy in row.get("certified_accuracy", {}).items():
        yield f"{split}/certified_accuracy_at_{radius}", float(accuracy)


def system_measurements(folder: SweepTrialFolder, started: datetime) -> list[Measurement]:
    """Return the points of what the trial's machine was seen to do."""
    return [
        Measurement(
            f"system/{name}",
            float(value),
            int(row["seconds"]),
            started + timedelta(seconds=int(row["seconds"])),
        )
        for row in folder.read_system()
        for name, value in row.items()
        if name != "seconds" and is_number(value)
    ]
