"""The dashboard as someone sees it who opens the printed address in a browser."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.commands import decrop
from tests.tune.browser import chromium, dashboard_of, keep_picture, page_at
from tests.tune.runs import only_sweep, running_on, write_sweep
from tune.cluster import ClusterSize
from tune.directory import SweepDirectory

CARD = "[data-testid='experiment-view-compare-runs-card']"
EMPTY = re.compile("no chart data|no data", re.IGNORECASE)

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]


@pytest.fixture(scope="module")
def directory(local_ray: ClusterSize, tmp_path_factory: pytest.TempPathFactory) -> SweepDirectory:
    chromium()  # Before a sweep is run for nothing.
    folder = tmp_path_factory.mktemp("page")
    with running_on(local_ray):
        ran = decrop("sweep", write_sweep(folder, trials=2), "--out", folder / "sweeps")
    assert ran.code == 0, ran.out + ran.err
    return only_sweep(folder / "sweeps")


@pytest.fixture(scope="module")
def address(directory: SweepDirectory) -> Iterator[str]:
    with dashboard_of(directory) as url:
        yield url


def card(page: Page, title: str) -> Locator:
    return page.locator(CARD).filter(has=page.get_by_text(title, exact=True))


def test_the_first_page_shows_all_trials_their_curves_and_what_won(
    address: str, directory: SweepDirectory, tmp_path: Path
) -> None:
    summary = directory.leaderboard_markdown_path.read_text().splitlines()[-1]
    with page_at(address) as page:
        try:
            expect(page.get_by_text(summary[:40]).first).to_be_visible()
            for name in ("trial 0", "trial 1", "final 0 (test)", "undefended (test)", "tiny"):
                expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
            for section in ("Certificates", "Search", "Losses"):
                expect(page.get_by_text(section, exact=False).first).to_be_visible()

            # A line and what lies under it are two traces.
            held_out = card(page, "certified/held_out")
            expect(held_out.locator(".scatterlayer .trace")).to_have_count(4)
            expect(held_out.locator(".xtitle")).to_have_text("certified/L2 radius")
            undefended_too = card(page, "certified/test").locator(".scatterlayer .trace")
            expect(undefended_too).to_have_count(6)
            best = card(page, "sweep/best_so_far").locator(".scatterlayer .trace")
            expect(best).to_have_count(2)
            expect(card(page, "train/total").locator(".scatterlayer .trace").first).to_be_visible()
            ranking = card(page, "held_out/average_certified_radius")
            expect(ranking.locator(".barlayer .point")).to_have_count(2)
            expect(card(page, "Parallel Coordinates")).to_be_visible()

            # Two of curves, three of the search, one of settings and five of losses; no others.
            expect(page.locator(CARD)).to_have_count(11)
            expect(page.get_by_text(EMPTY)).to_have_count(0)
        finally:
            print(keep_picture(page, tmp_path, "dashboard"))


def test_a_trial_has_its_certificates_as_a_table_and_the_load_of_its_machine(
    address: str, tmp_path: Path
) -> None:
    with page_at(address) as page:
        try:
            page.get_by_role("link", name="trial 0", exact=True).click()
            page.get_by_role("tab", name="System metrics").click()
            expect(page.get_by_text("cpu_utilization_percentage").first).to_be_visible()
            page.get_by_role("tab", name="Artifacts").click()
            page.get_by_text("certificates.json", exact=True).click()
            for column in ("idx", "label", "predict", "radius"):
                expect(page.get_by_role("columnheader", name=column)).to_be_visible()
        finally:
            print(keep_picture(page, tmp_path, "certificates"))


def test_the_sweeps_report_is_drawn_among_its_artifacts(
    address: str, directory: SweepDirectory, tmp_path: Path
) -> None:
    """MLflow shows it in a frame that may run scripts and nothing else."""
    name = directory.read_record().name
    with page_at(address) as page:
        try:
            page.get_by_role("link", name=name, exact=True).click()
            page.get_by_role("tab", name="Artifacts").click()
            page.get_by_text("report.html", exact=True).click()
            report = page.frame_locator("iframe.mlflow-html-iframe")
            expect(report.locator("html[data-drawn]")).to_be_attached()
            expect(report.get_by_role("heading", name=name)).to_be_visible()
            expect(report.locator("#chart-accuracy .scatterlayer .trace").first).to_be_visible()
        finally:
            print(keep_picture(page, tmp_path, "report"))
