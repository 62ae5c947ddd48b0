"""Commands of decrop as a test runs them in this process, and what they left in the terminal."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decrop.cli.main import run


@dataclass(frozen=True)
class Ran:
    """What a command left behind in the terminal."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> dict[str, Any]:
        """The JSON object that `--json` prints last."""
        document = json.loads(self.out.splitlines()[-1])
        assert isinstance(document, dict)
        return document


def decrop(*arguments: object) -> Ran:
    """Run the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run([str(argument) for argument in arguments])
    return Ran(code, out.getvalue(), err.getvalue())


def refused(*arguments: object) -> str:
    """Run a command that must refuse its input, and return the one line that it says."""
    ran = decrop(*arguments)
    # Where it is to work is told before it looks at all else.
    shown = [line for line in ran.out.splitlines() if not line.startswith("folder: ")]
    assert (ran.code, shown) == (2, []), ran.out + ran.err
    assert ran.err.startswith("error: ") and ran.err.count("\n") == 1, ran.err
    return ran.err


def set_options(*assignments: str) -> list[str]:
    """Return the options that make these assignments."""
    return [word for assignment in assignments for word in ("--set", assignment)]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files below a folder, by their path in it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
