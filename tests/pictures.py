"""The README's pictures, of the quickstart of this commit: what it prints, and its two pages.

python -m tests.pictures                      # runs a quickstart first: minutes on two cores
python -m tests.pictures --sweep DIRECTORY    # of one that has ended
"""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from playwright.sync_api import Page, expect

from tests.tune.browser import chromium, dashboard_of, page_at
from tests.tune.runs import COMMAND, only_sweep
from tune.directory import SweepDirectory
from tune.results.leaderboard import read_leaderboard

IMAGES = Path(__file__).parent.parent / ".github" / "images"
NAMES = ("certified_accuracy", "dashboard", "report")
_WIDTH = 1440
_SETTLING_MS = 5_000
_CHARTS = "[data-testid='experiment-view-compare-runs-card'] .scatterlayer .trace"


def draw(directory: SweepDirectory, folder: Path) -> list[Path]:
    """Write the pictures of a sweep that has ended, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    curves, dashboard, report = (folder / f"{name}.png" for name in NAMES)
    shutil.copyfile(directory.accuracy_figure_path, curves)
    with page_at(directory.page_path.absolute().as_uri(), width=_WIDTH, height=1420) as page:
        page.wait_for_selector("html[data-drawn]")
        page.screenshot(path=report)
    with (
        dashboard_of(directory) as address,
        page_at(address, width=_WIDTH, height=1800) as page,
    ):
        expect(page.locator(_CHARTS).first).to_be_visible()
        _settle(page)
        page.screenshot(path=dashboard)
    for path in (dashboard, report):
        _reduce(path)
    return [curves, dashboard, report]


def _reduce(path: Path) -> None:
    """Write a picture anew with 256 colours, in a third of the room."""
    with Image.open(path) as image:
        image.convert("RGB").quantize(256).save(path, optimize=True)


def _settle(page: Page) -> None:
    """Close what covers the page at its side, and wait until the charts have their width."""
    for button in page.get_by_role("button", name="Close", exact=True).all():
        button.click()
    # MLflow asks its server again and again, so that there is no end to wait for.
    page.wait_for_timeout(_SETTLING_MS)


def main(
    sweep: Annotated[Path | None, typer.Option(help="A sweep that has ended.")] = None,
    to: Annotated[Path, typer.Option(help="Folder of the pictures.")] = IMAGES,
) -> None:
    """Run a quickstart unless one is given, draw it, and print what the pictures show."""
    chromium()  # Before a sweep is run for nothing.
    with tempfile.TemporaryDirectory() as temporary:
        if sweep is None:
            subprocess.run([*COMMAND, "sweep", "quickstart", "--out", temporary], check=True)
            directory = only_sweep(Path(temporary))
        else:
            directory = SweepDirectory.open(sweep)
        for path in draw(directory, to):
            print(path)
        board = read_leaderboard(directory)
        assert board is not None
        print(board.summary)


if __name__ == "__main__":
    typer.run(main)
