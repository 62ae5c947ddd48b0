"""Options that several commands share, and the settings that they give."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from decrop.config import TrialConfig
    from decrop.documents import Model

Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a setting by its dotted path; repeatable."
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object on the last line.")
]
RunFolder = Annotated[
    Path | None,
    typer.Option(
        "--out", help="Folder to write; a folder of an earlier run with these settings goes on."
    ),
]
DatasetPath = Annotated[
    str | None,
    typer.Option(help="Folder of the dataset; bundles do not record where it lay."),
]
ClassifierWeights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="safetensors (or .pt2) file of the classifier, or http(s) URL of the endpoint that "
        "it is behind, where the target names or holds none.",
    ),
]
QueryCount = Annotated[
    Path | None,
    typer.Option(
        "--queries",
        help="File that counts the images asked of an endpoint, against its query_budget too; "
        "other commands may share it.",
    ),
]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Import the function or model that a bundle or sweep names for its classifier, and "
        "ask the endpoint; only for those of people you trust.",
    ),
]


def load_trial(name_or_path: str, assignments: Sequence[str]) -> "TrialConfig":
    """Read a trial preset or YAML file and apply `KEY=VALUE` assignments."""
    from decrop.config import TrialConfig
    from decrop.documents import load_trial_document

    document = load_trial_document(name_or_path)
    return assigned(TrialConfig, document, assignments, source=name_or_path)


def change(config: "TrialConfig", assignments: Sequence[str]) -> "TrialConfig":
    """Apply `KEY=VALUE` assignments to settings."""
    return assigned(type(config), config.model_dump(mode="json"), assignments, source="settings")


def run_folder(out: Path | None, settings: str) -> Path:
    """Return the folder that a command writes: `out`, or one of the settings' name and the time."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return out or Path("runs") / f"{Path(settings).stem}-{stamp}"


def assigned(
    model: "type[Model]",
    document: Mapping[str, Any],
    assignments: Sequence[str],
    *,
    source: str,
    group: str = "",
) -> "Model":
    """Validate settings with `KEY=VALUE` assignments applied, whose keys begin with a group's."""
    # Imported where they are used: `--help` does without the settings.
    from decrop.documents import parse_assignment, set_dotted, validated

    paths = []
    for assignment in assignments:
        path, value = parse_assignment(assignment)
        paths.append(path.removeprefix(group))
        document = set_dotted(document, paths[-1], value)
    return validated(model, document, source=source, assigned=paths)
