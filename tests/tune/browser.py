"""A page of MLflow in the machine's own Chromium."""

import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.mlflow_server.processes import descendants, free_port, is_alive
from tests.tune.runs import started
from tune.directory import SweepDirectory

_NAMES = ("chromium", "chromium-browser", "google-chrome")
# A busy machine draws the page in half a minute.
_TIMEOUT_MS = 120_000
# Where pictures of pages are kept after the tests, if it is set.
_PICTURES = "DECROP_TEST_PICTURES"


def chromium() -> str:
    """Return where Chromium lies; without one the test fails."""
    for name in _NAMES:
        found = shutil.which(name)
        if found is not None:
            return found
    pytest.fail(
        f"None of {', '.join(_NAMES)} is on the path: install Debian's package chromium "
        "(apt-get install chromium)."
    )


@contextmanager
def dashboard_of(directory: SweepDirectory) -> Iterator[str]:
    """Serve a sweep by its command, and yield the address that it prints last."""
    server = started("dashboard", directory.path, "--port", free_port())
    try:
        assert server.stdout is not None
        lines: list[str] = []
        for line in server.stdout:
            lines.append(line)
            found = re.search(r"ready at (http://\S+)", line)
            if found is not None:
                yield found[1]
                return
        raise AssertionError("".join(lines))
    finally:
        below = descendants(server.pid)
        server.send_signal(signal.SIGTERM)
        rest, _ = server.communicate(timeout=60)
        for pid in below:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        # Nothing is printed below the address.
        assert rest == ""


@contextmanager
def page_at(url: str, *, width: int = 1600, height: int = 2600) -> Iterator[Page]:
    """Open an address on its first visit, in a window that shows all of MLflow's charts."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(_TIMEOUT_MS)
            # What is expected of a page has a limit of its own, of five seconds.
            expect.set_options(timeout=_TIMEOUT_MS)
            page.goto(url)
            yield page
        finally:
            browser.close()


def keep_picture(page: Page, folder: Path, name: str) -> Path:
    """Write a picture of the page to a folder, or to the one that the environment names."""
    path = Path(os.environ.get(_PICTURES, folder)) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path)
    return path
