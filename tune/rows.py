"""Rows of a table: named settings of a sweep file, checked before anything starts."""

from collections.abc import Collection, Mapping
from typing import Any

from decrop.config import TrialConfig
from decrop.config.measuring import VARIED_BY_TABLES, measures
from decrop.documents import set_dotted, show, trial_config
from decrop.errors import InputError

Rows = Mapping[str, Mapping[str, Any]]


def row_document(document: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's settings with those of a row, by dotted path, laid over them.

    Raises:
        InputError: a path goes through a setting that is no group.
    """
    laid = dict(document)
    for path, value in row.items():
        laid = set_dotted(laid, path, value)
    return laid


def check_rows(
    rows: Rows,
    document: Mapping[str, Any],
    *,
    seeds: int,
    source: str,
    assigned: Collection[str] = (),
) -> None:
    """Check that every row is a trial, that no two are the same, and that all can be compared.

    Args:
        rows: settings by dotted path, by the name of the row.
        document: the settings that all rows share.
        seeds: how often each row is repeated, with seeds 0, 1, …
        source: the file or preset of the rows, for the message.
        assigned: dotted paths given by `--set`.

    Raises:
        InputError: a path is no setting, a value is not allowed, two rows have the same settings,
            or a setting must not differ between rows or has no effect.
    """
    seen: list[tuple[str, TrialConfig]] = []
    for name, row in rows.items():
        here = f"{source}, row {name}"
        for path, value in row.items():
            _check_path(path, value, here)
        try:
            laid = row_document(document, row)
        except InputError as error:
            raise InputError(f"{here}: {error}") from None
        config = trial_config(laid, source=here)
        for other, earlier in seen:
            if earlier == config:
                raise InputError(f"{here}: has the same settings as row {other}; drop one of them.")
        seen.append((name, config))
    for path in assigned:
        if all(path in row for row in rows.values()):
            raise InputError(f"--set {path}: every row sets it, so that it has no effect.")
    if seeds > 1 and ("seed" in document or any("seed" in row for row in rows.values())):
        raise InputError(
            f"{source}: seeds = {seeds} gives each row the seeds 0 to {seeds - 1}; drop `seed`."
        )


def _check_path(path: str, value: Any, here: str) -> None:
    if isinstance(value, Mapping):
        example = next(iter(value), "name")
        raise InputError(
            f"{here}: {path} = {show(dict(value))}: must be one setting; write each by its whole "
            f"path, as in {path}.{example}."
        )
    if measures(path) and not measures(path, VARIED_BY_TABLES):
        raise InputError(
            f"{here}: {path}: must be the same in all rows, for it decides how they are measured, "
            "and they are compared image by image; set it under trial."
        )
