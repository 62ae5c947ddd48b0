"""Plants faults by hand, one at a time, in a copy of the code: each must make a test fail.

Run by hand: `python -m tests.mutations`, or `--only losses` for those whose names contain it.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.mutations.faults import FAULTS, Fault

ROOT = Path(__file__).parents[2]
PACKAGES = ("decrop", "tune")
_SECONDS = 900


class PlantingError(Exception):
    """A fault that cannot be planted: its text is not in the code, or more than once."""


def module_of(fault: Fault, root: Path) -> Path:
    """Return the one module that has the fault's text, wherever it was moved."""
    modules = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    found = [path for path in modules if fault.old in path.read_text()]
    times = sum(path.read_text().count(fault.old) for path in found)
    if times != 1:
        raise PlantingError(f"{fault.name}: its text is in the code {times} times: {fault.old!r}")
    return found[0]


def check(faults: Sequence[Fault], root: Path = ROOT) -> None:
    """Raise `PlantingError` unless every fault can be planted and its tests exist."""
    for fault in faults:
        module_of(fault, root)
        for test in fault.tests:
            if not (root / test).is_file():
                raise PlantingError(f"{fault.name}: {test} does not exist")


def passes(root: Path, tests: Sequence[str]) -> bool:
    """Run tests in a copy of the code, up to the first that fails.

    Raises:
        PlantingError: they do not run, so that they catch nothing.
    """
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    if ran.returncode not in (0, 1):
        raise PlantingError(
            f"{' '.join(tests)} did not run:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}"
        )
    return ran.returncode == 0


def caught(fault: Fault, root: Path) -> bool:
    """Plant a fault, run its tests, and take it out again."""
    module = module_of(fault, root)
    text = module.read_text()
    module.write_text(text.replace(fault.old, fault.new))
    try:
        return not passes(root, fault.tests)
    finally:
        module.write_text(text)


def main() -> int:
    """Plant the faults and print which are caught; the exit code is 1 if one is not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of the names of faults")
    only = parser.parse_args().only
    faults = [fault for fault in FAULTS if only in fault.name]
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "code"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "sweeps"))
        check(faults, copy)
        tests = sorted({test for fault in faults for test in fault.tests})
        if not passes(copy, tests):
            raise PlantingError(f"without a fault a test fails already: pytest {' '.join(tests)}")
        for fault in faults:
            found = caught(fault, copy)
            missed += [] if found else [fault]
            print(f"{'caught' if found else 'MISSED'}  {fault.name}", flush=True)
    print(f"{len(faults) - len(missed)} of {len(faults)} faults were caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
