"""The page of a sweep: what a reader sees in Chromium, and what its file holds."""

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from decrop.evaluation.table import CertificateTable
from decrop.files import read_json, write_json
from tests.commands import decrop
from tests.tune.browser import page_at
from tests.tune.many_trials import run_one_trial, with_trials
from tests.tune.results.boards import sweep_with
from tests.tune.sweeps import make_sweep
from tune.directory import SweepDirectory
from tune.results.html import certified_images as pictures
from tune.results.html.page import write_page
from tune.results.leaderboard import build_leaderboard, write_leaderboard
from tune.results.ranking import certified_radii
from tune.results.tables import leaderboard_tables

TRIALS = 10
TEXTS = ("text", "soft", "accent", "wrong", "right")
HOSTILE = "%{y} $x$ [red] </script><img src=x onerror=alert(1)>"


def with_board(directory: SweepDirectory) -> SweepDirectory:
    write_leaderboard(directory, build_leaderboard(directory, certified_radii(directory), top=3))
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> SweepDirectory:
    """A sweep of which trial 0 is certified on test images, beside no denoiser."""
    folder = tmp_path_factory.mktemp("page")
    template = run_one_trial(folder)
    sweep = template.read_record().sweep.model_copy(
        update={"trials": TRIALS, "description": HOSTILE}
    )
    return with_board(with_trials(template, folder / "many", sweep, TRIALS))


@pytest.fixture(scope="module")
def written(directory: SweepDirectory) -> Path:
    path = directory.path.parent / "report.html"
    assert write_page(directory, path) == ""
    return path


@pytest.fixture(scope="module")
def shown(written: Path) -> Iterator[Page]:
    with page_at(written.as_uri()) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: asked.append(str(error)))
        page.on("console", lambda message: asked.append(message.text))
        page.reload()
        page.wait_for_selector("html[data-drawn]")
        yield page
        # The file alone: no network, nothing that fails, nothing that the policy refuses.
        others = [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
        assert others == []


def outcomes(table: CertificateTable) -> dict[str, int]:
    images = len(table.idx)
    shares = table.shares
    return {
        "all": images,
        "certified right": round(shares.correct * images),
        "wrong": round(shares.misclassified * images),
        "abstained": round(shares.abstained * images),
    }


def visible(page: Page, column: int) -> list[str]:
    cells = page.locator(f"#image-table tbody tr:visible > :nth-child({column})")
    return cells.all_inner_texts()


def test_test_images_are_sorted_by_radius_and_filtered_by_outcome(
    shown: Page, directory: SweepDirectory
) -> None:
    table = CertificateTable.read_tsv(directory.final(0).certificates_path)
    head = shown.get_by_role("columnheader", name="radius", exact=True)
    expect(head).to_have_attribute("aria-sort", "descending")
    by_radius = [idx for _, idx in sorted(zip(-table.radius, table.idx, strict=True))]
    assert visible(shown, 1)[0] == str(by_radius[0])
    radii = [float(text) for text in visible(shown, 7) if text[0].isdigit()]
    assert radii == sorted(radii, reverse=True)

    # By keyboard alone.
    head.get_by_role("button").focus()
    shown.keyboard.press("Enter")
    expect(head).to_have_attribute("aria-sort", "ascending")
    radii = [float(text) for text in visible(shown, 7) if text[0].isdigit()]
    assert radii == sorted(radii) and radii

    for name, count in outcomes(table).items():
        shown.get_by_role("button", name=f"{name} ({count})", exact=True).click()
        assert len(visible(shown, 1)) == count
        expect(shown.locator("#images-count")).to_have_text(
            f"{count} of {len(table.idx)} images are shown."
        )
    shown.get_by_role("button", name="all (").click()


def test_pictures_are_there_with_words_for_those_who_do_not_see_them(shown: Page) -> None:
    images = shown.locator("#image-table img")
    expect(images).to_have_count(3 * 20)
    sizes = images.evaluate_all("all => all.map((one) => one.naturalWidth)")
    assert set(sizes) == {8}
    spoken = images.evaluate_all("all => all.map((one) => one.alt)")
    assert re.fullmatch(r"image \d+, \d, (clean|noisy|denoised)", spoken[0])
    sources = images.evaluate_all("all => all.map((one) => one.src)")
    # Clean, noisy and denoised are three pictures, not one three times.
    assert len(set(sources[:3])) == 3


def test_who_hears_the_page_hears_what_all_of_it_is(shown: Page) -> None:
    headings = shown.locator("h1, h2, h3").evaluate_all("all => all.map(one => +one.tagName[1])")
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(headings))
    nameless = "all => all.filter(one => !(one.textContent.trim() || one.ariaLabel)).length"
    assert shown.locator("button, a, summary").evaluate_all(nameless) == 0
    assert shown.locator("th:not([scope]), table:not(:has(caption))").count() == 0
    # A row is named by its first cell.
    assert shown.locator("tbody tr > td:first-child").count() == 0
    for chart in shown.locator(".chart").all():
        for place in ("aria-labelledby", "aria-describedby"):
            assert shown.locator(f"#{chart.get_attribute(place)}").inner_text().strip()
        assert chart.locator("svg.main-svg:not([aria-hidden])").count() == 0
        # Its buttons are reached by the keyboard, and none sends it anywhere.
        names = chart.locator("button").evaluate_all("all => all.map(one => one.ariaLabel)")
        assert names and all(names) and "Share chart..." not in names


def brightness(colour: str) -> float:
    """Return the relative luminance of WCAG 2."""
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_texts_and_curves_stand_out_from_what_lies_behind_them() -> None:
    style = (files("tune.results.html") / "page.css").read_text()
    schemes = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--([\w-]+): (#\w{6})", scheme))
        pairs = [
            *((name, behind, 4.5) for name in TEXTS for behind in ("card", "page")),
            *((f"c{number}", "card", 3.0) for number in range(6)),
            ("on-accent", "accent", 4.5),
        ]
        for name, behind, least in pairs:
            dark, bright = sorted((brightness(colours[name]), brightness(colours[behind])))
            assert (bright + 0.05) / (dark + 0.05) >= least, (name, behind)


def test_a_toggled_row_leaves_every_chart_that_has_it_and_comes_back(shown: Page) -> None:
    def lines() -> list[int]:
        return [
            shown.locator(f"#chart-{chart} .scatterlayer .js-line").count()
            for chart in ("accuracy", "probabilities", "losses")
        ]

    before = lines()
    button = shown.get_by_role("button", name="no denoiser", exact=True)
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false")
    expect(shown.locator("#chart-probabilities .scatterlayer .js-line")).to_have_count(1)
    assert all(now <= then for now, then in zip(lines(), before, strict=True))
    button.click()
    expect(shown.locator("#chart-probabilities .scatterlayer .js-line")).to_have_count(2)
    assert lines() == before


def test_a_curve_tells_its_values_and_intervals_where_it_is_pointed_at(shown: Page) -> None:
    shown.locator("#chart-accuracy .nsewdrag").hover()
    told = shown.locator("#chart-accuracy .hoverlayer")
    expect(told).to_contain_text("no denoiser")
    expect(told).to_contain_text(re.compile(r"\d+\.\d % \(\d+\.\d–\d+\.\d\)"))


def test_the_search_is_drawn_and_trials_picked_in_it_are_listed(shown: Page) -> None:
    for chart in ("history", "importances", "parallel"):
        expect(shown.locator(f"#chart-{chart} .main-svg").first).to_be_visible()
    rows = shown.locator("#ranks tbody tr:visible")
    expect(rows).to_have_count(TRIALS)
    shown.evaluate(
        "document.getElementById('chart-parallel').emit("
        "'plotly_selected', {points: [{customdata: 3}, {customdata: 5}]})"
    )
    expect(rows).to_have_count(2)
    expect(shown.locator("#ranks-count")).to_have_text(f"2 picked trials of {TRIALS} are shown.")
    shown.evaluate("document.getElementById('chart-parallel').emit('plotly_deselect')")
    expect(rows).to_have_count(TRIALS)


def test_the_page_follows_a_dark_desktop(shown: Page) -> None:
    def colours() -> tuple[str, str]:
        line = "document.querySelector('#chart-accuracy .xtitle').style.fill"
        return shown.evaluate(f"[getComputedStyle(document.body).backgroundColor, {line}]")

    light = colours()
    shown.emulate_media(color_scheme="dark")
    expect(shown.locator("#chart-accuracy .xtitle")).to_have_css("fill", "rgb(232, 235, 240)")
    assert all(now != then for now, then in zip(colours(), light, strict=True))
    shown.emulate_media(color_scheme="light")


def test_what_people_named_is_shown_as_it_is(shown: Page) -> None:
    expect(shown.locator(".description")).to_have_text(HOSTILE)
    assert shown.locator("img[src=x]").count() == 0


class Elements(HTMLParser):
    """Collects elements, what scripts hold, and what stands in table cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.cells: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[self.tags[-1][1].get("id") or "main"] = data
        elif self.inside in ("td", "th"):
            self.cells[-1] += data


def test_its_figures_are_the_leaderboards(written: Path, directory: SweepDirectory) -> None:
    text = written.read_text()
    found = Elements(text)
    board = build_leaderboard(directory, certified_radii(directory), top=3)
    for table in leaderboard_tables(board):
        for row in table.rows:
            assert set(row) <= set(found.cells)
    assert read_json(directory.leaderboard_json_path)["summary"] in text.replace("&#39;", "'")
    figures = json.loads(found.scripts["figures"])
    entry = board.entries[0]
    accuracy = next(
        trace
        for trace in figures["accuracy"]["data"]
        if trace["meta"] == {"entry": "0", "colour": 0, "role": "line"}
    )
    drawn = dict(zip(accuracy["x"], accuracy["y"], strict=True))
    at_zero = 100 * entry.result["certified_accuracy"]["0.0"]
    assert drawn[0] == pytest.approx(at_zero)
    # No curve ends in mid-air.
    assert {
        trace["y"][-1] for trace in figures["accuracy"]["data"] if trace["meta"]["role"] == "line"
    } == {0}
    low, high = accuracy["customdata"][0]
    assert (low, high) == pytest.approx([100 * end for end in entry.intervals["0.0"]], abs=0.01)


def test_it_asks_no_network_and_is_small(written: Path) -> None:
    assert written.stat().st_size < 2_500_000
    text = re.sub(r'<script type="text/plain".*?</script>', "", written.read_text())
    assert re.findall(r"""(?:src|href|url\()=?["'](?!data:|#)""", text) == []
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert "default-src &#39;none&#39;" in policy and "unsafe-eval" not in policy


def test_a_name_cannot_end_a_script_or_become_an_element(shown: Page, tmp_path: Path) -> None:
    directory = sweep_with(tmp_path, {0: 0.3, 1: 0.4}, {0: range(10), 1: range(15)})
    for folder in (directory.trial(1), directory.final(1)):
        document = read_json(directory.trial(1).record_path)
        write_json(folder.record_path, {**document, "row": HOSTILE})
    write_page(with_board(directory), tmp_path / "report.html")
    found = Elements((tmp_path / "report.html").read_text())
    assert HOSTILE in found.cells
    assert [attributes for tag, attributes in found.tags if tag == "img"] == []
    assert len([tag for tag, _ in found.tags if tag == "script"]) == 3
    figures = json.loads(found.scripts["figures"])
    names = {trace["name"] for trace in figures["accuracy"]["data"]}
    # plotly.js takes these for its own.
    assert not any(set("<$%") & set(name) for name in names)
    assert shown.context.browser is not None
    page = shown.context.browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    page.wait_for_selector("html[data-drawn]")
    legend = page.locator("#chart-accuracy .legendtext").all_text_contents()
    page.close()
    assert legend[0] == f"{HOSTILE[:39]}…"


def test_without_data_or_weights_it_has_no_pictures_and_says_so(
    directory: SweepDirectory, tmp_path: Path
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(directory.path, copied)
    (copied / "final" / "0" / "denoiser.safetensors").unlink()
    missing = write_page(SweepDirectory.open(copied), tmp_path / "report.html")
    assert missing.startswith("There are no pictures: ") and "denoiser.safetensors" in missing
    found = Elements((tmp_path / "report.html").read_text())
    assert missing.replace("\n", " ") in (tmp_path / "report.html").read_text()
    assert not any(tag == "img" for tag, _ in found.tags)
    assert sum(attributes.get("data-outcome") is not None for _, attributes in found.tags) == 20


def test_images_that_were_not_certified_are_not_shown(
    directory: SweepDirectory, tmp_path: Path
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(directory.path, copied)
    path = copied / "final" / "0" / "result.json"
    document = read_json(path)
    path.unlink()
    document["hashes"]["certified_images"] = "0" * 64
    write_json(path, document)
    missing = write_page(SweepDirectory.open(copied), tmp_path / "report.html")
    assert "are not those that were certified" in missing


def test_a_slow_denoiser_does_not_hold_up_a_sweeps_end(
    directory: SweepDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_MOST_SECONDS", -1.0)
    said = write_page(directory, tmp_path / "report.html")
    assert said == "Not denoised here, which would take too long: 20 images."
    found = Elements((tmp_path / "report.html").read_text())
    assert sum(tag == "img" for tag, _ in found.tags) == 2 * 20


def test_pictures_take_no_more_room_than_there_is(
    directory: SweepDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_MOST_CHARACTERS", 5_000)
    said = write_page(directory, tmp_path / "report.html")
    found = Elements((tmp_path / "report.html").read_text())
    sources = [a["src"] or "" for tag, a in found.tags if tag == "img"]
    assert 0 < sum(map(len, sources)) <= 5_000
    assert said == (f"There is room for pictures of {len(sources) // 3} images only.")


def test_the_command_writes_it_and_refuses_what_it_cannot_do(
    directory: SweepDirectory, written: Path, tmp_path: Path
) -> None:
    ran = decrop("report", directory.path, "--html", tmp_path / "page.html")
    assert (ran.code, ran.err) == (0, "") and "written to: " in ran.out
    assert (tmp_path / "page.html").read_bytes() == written.read_bytes()
    for arguments, said in (
        ([directory.path, directory.path, "--html", "x.html"], "give one directory"),
        ([directory.path, "--html", tmp_path], "is a folder; give a file"),
        ([make_sweep(tmp_path).path, "--html", "x.html"], "has no leaderboard yet"),
    ):
        refused = decrop("report", *arguments)
        assert refused.code == 2 and said in refused.err
