"""Figures of a sweep's search, which the sweep directory has no files of."""

import io

from matplotlib.figure import Figure
from pydantic import TypeAdapter
from safetensors import safe_open

from decrop.files import MOST_WEIGHTS_BYTES, require_regular
from tune.directory import SweepDirectory, SweepRecord, SweepTrialFolder
from tune.domains import Domain
from tune.importance import parameter_importances
from tune.past import PastTrial, ended_trials, finite
from tune.plots import history_figure, importances_figure, pareto_front, size_figure

_REFERENCE = 0
_SPACE = TypeAdapter(dict[str, Domain])


def search_figures(directory: SweepDirectory, record: SweepRecord) -> dict[str, bytes]:
    """Draw what the trials that ended tell, as PNG by the figure's path among the artifacts.

    A figure is left out where there are too few trials for it, or nothing differs between them.

    Raises:
        InputError: a file of a trial is broken.
    """
    if record.sweep.get("search") == "rows":
        return {}
    past, _ = ended_trials(directory)
    figures: dict[str, Figure | None] = {
        "search_history": _history(past),
        "parameter_importances": _importances(past, record),
        "radius_against_size": _sizes(directory, past),
    }
    return {
        f"figures/{name}.png": _png(figure)
        for name, figure in figures.items()
        if figure is not None
    }


def _history(past: list[PastTrial]) -> Figure | None:
    scores = {trial.number: (trial.state, finite(trial.value)) for trial in past}
    complete = {n: v for n, (state, v) in scores.items() if state == "complete" and v is not None}
    pruned = {n: v for n, (state, v) in scores.items() if state == "pruned" and v is not None}
    return history_figure(complete, pruned, _REFERENCE) if complete else None


def _importances(past: list[PastTrial], record: SweepRecord) -> Figure | None:
    found = parameter_importances(past, _SPACE.validate_python(record.sweep.get("space") or {}))
    if found is None:
        return None
    return importances_figure(
        found.shares,
        f"Importance of settings (fANOVA, {found.trials} trials at evaluation {found.evaluation})",
    )


def _sizes(directory: SweepDirectory, past: list[PastTrial]) -> Figure | None:
    points = {}
    for trial in past:
        score = finite(trial.value)
        folder = directory.trial(trial.number)
        if trial.state == "complete" and score is not None and folder.denoiser_path.exists():
            points[f"trial {trial.number}"] = _weights(folder), score
    if len({size for size, _ in points.values()}) < 2:
        return None
    return size_figure(points, pareto_front(points))


def _weights(folder: SweepTrialFolder) -> int:
    count = 0
    require_regular(folder.denoiser_path, most_bytes=MOST_WEIGHTS_BYTES)
    with safe_open(folder.denoiser_path, framework="pt") as weights:
        for name in weights.keys():  # noqa: SIM118  # it is no mapping
            size = 1
            for length in weights.get_slice(name).get_shape():
                size *= length
            count += size
    return count


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
