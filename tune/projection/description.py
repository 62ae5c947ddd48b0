"""What the head of an experiment's page says of a sweep."""

import json

from decrop.files import read_text
from tune.directory import SweepDirectory, SweepRecord
from tune.domains import Domain
from tune.projection.page import swept_paths, trains_classifiers
from tune.projection.trials import STEPS_PER_UNIT_RADIUS


def sweep_description(directory: SweepDirectory, record: SweepRecord) -> str:
    """Describe a sweep in Markdown: what won once that is known, what was swept, its settings.

    MLflow shows the first line until someone opens the rest.
    """
    return "\n".join(
        [
            *_outcome(directory, record),
            f"## What was swept\n\n{_swept(record)}\n",
            f"## How to read this page\n\n{_legend(record)}",
            f"Created {record.created:%Y-%m-%d %H:%M:%S} UTC, id `{record.id}`. Settings:\n",
            f"```json\n{json.dumps(record.sweep, indent=2)}\n```\n",
        ]
    )


def _outcome(directory: SweepDirectory, record: SweepRecord) -> list[str]:
    path = directory.leaderboard_markdown_path
    if not path.exists():
        of = "classifiers' training" if trains_classifiers(record.sweep) else "DE-CROP's settings"
        return [f"**{record.name}**: a sweep over {of}, not finished yet.\n"]
    text = read_text(path).strip()
    _, _, summary = text.rpartition("|\n")
    # Captions and tables in turn: the ranking of all trials, then certified accuracies.
    blocks = text.split("\n\n")
    table = "\n\n".join(blocks[2:4] if len(blocks) > 4 else blocks[:2])
    return [
        f"**{record.name}**: {' '.join(summary.split())}\n",
        f"## Leaderboard\n\n{table}\n",
    ]


def _swept(record: SweepRecord) -> str:
    sweep = record.sweep
    if sweep.get("search") == "rows":
        rows = sweep.get("rows")
        names = ", ".join(rows) if isinstance(rows, dict) else ""
        return f"A table of rows, each with its own settings: {names}."
    space = sweep.get("space")
    if not isinstance(space, dict):
        return f"Nothing but the search's own choice (search `{sweep.get('search')}`)."
    lines = [f"{sweep.get('trials') or 'All'} trials by search `{sweep.get('search')}` over\n"]
    for path in swept_paths(sweep):
        domain = Domain.model_validate(space[path])
        lines.append(f"- `{path}`: {domain.model_dump_json(exclude_defaults=True)}")
    return "\n".join(lines)


def _legend(record: SweepRecord) -> str:
    trials = (
        "- `trial n` runs are scored on held-out images; trial 0 is the reference.\n"
        "- `final n (test)` runs are the best of them and trial 0, trained again on all limited "
        "data and certified once on the test split; `undefended (test)` has no denoiser.\n"
        "- `final n, seed s (test)` runs are those settings from other seeds.\n"
    )
    if record.sweep.get("search") == "rows":
        trials = (
            "- A run named like a row of the table is scored on held-out images.\n"
            "- A run whose name ends in `(test)` is a row trained again on all limited data and "
            "certified once on the test split; `undefended (test)` has no denoiser.\n"
        )
    if trains_classifiers(record.sweep):
        trials = (
            "- `trial n` runs train a classifier and are scored on held-out images; trial 0 is the "
            "reference.\n"
            "- Runs whose name ends in `(test)` are the best of them and trial 0, certified once "
            "on the test split.\n"
        )
    return (
        f"{trials}"
        "- `certified/…`: certified accuracy over the L2 radius ([0,1] pixels); where MLflow shows "
        f"a step instead, it is the radius × {STEPS_PER_UNIT_RADIUS}.\n"
        "- `train/…`: over epochs. `held_out/…`: over evaluations; a pruned trial has its last.\n"
        "- The run named like the sweep carries the leaderboard, and figures of the search.\n"
    )
