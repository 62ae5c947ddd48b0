"""From a preset or file and `--set` to the settings of a trial."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from decrop.config import TrialConfig
from decrop.documents import load_trial_document, parse_assignment, set_dotted, trial_config


def load_trial(name_or_path: str, assignments: Sequence[str]) -> TrialConfig:
    """Read a trial preset or YAML file and apply `KEY=VALUE` assignments.

    Raises:
        InputError: the file, a key or a value cannot be used.
    """
    return _assigned(load_trial_document(name_or_path), assignments, source=name_or_path)


def change(config: TrialConfig, assignments: Sequence[str]) -> TrialConfig:
    """Apply `KEY=VALUE` assignments to settings.

    Raises:
        InputError: a key or a value cannot be used.
    """
    return _assigned(config.model_dump(mode="json"), assignments, source="settings")


def run_folder(out: Path | None, settings: str) -> Path:
    """Return the folder that a command writes: `out`, or one with the settings' name and the time.

    Args:
        out: what the user has given.
        settings: name or path of the settings.
    """
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return out or Path("runs") / f"{Path(settings).stem}-{stamp}"


def _assigned(
    document: Mapping[str, Any], assignments: Sequence[str], *, source: str
) -> TrialConfig:
    paths = []
    for assignment in assignments:
        path, value = parse_assignment(assignment)
        document = set_dotted(document, path, value)
        paths.append(path)
    return trial_config(document, source=source, assigned=paths)
