"""Tables as MLflow's pages show them."""

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from decrop.files import MOST_TABLE_BYTES, read_text

_CELL_END = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Table:
    """Texts and numbers by row; `json` is what MLflow's `log_table` writes."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | float]]

    def json(self) -> str:
        """Write the table as pandas' orientation "split"."""
        # MLflow takes a point in a column's name for a path, and shows empty cells.
        columns = [column.replace(".", "·") for column in self.columns]
        return json.dumps({"columns": columns, "data": self.rows}, ensure_ascii=False)


def tsv_table(path: Path) -> Table:
    """Read a tab-separated file with a head; cells that are numbers become numbers."""
    text = read_text(path, most_bytes=MOST_TABLE_BYTES)
    head, *rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t")
    return Table(head, [[_value(cell) for cell in row] for row in rows])


def markdown_tables(text: str) -> list[Table]:
    """Return the tables of a Markdown text, all cells as texts."""
    tables = []
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            lines.append(line)
        elif lines:
            head, _, *rows = [*lines, ""]
            tables.append(Table(_cells(head), [_cells(row) for row in rows if row]))
            lines = []
    return tables


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in _CELL_END.split(line)[1:-1]]


def _value(cell: str) -> str | float:
    try:
        number = float(cell)
    except ValueError:
        return cell
    if not math.isfinite(number):
        return cell
    return int(number) if number.is_integer() else number
