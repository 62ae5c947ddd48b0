"""The script that makes the README's pictures runs, and makes those that the README shows."""

import re
from pathlib import Path

import pytest
from PIL import Image

from tests import pictures
from tests.readmes import ROOT
from tests.tune.many_trials import run_one_trial, with_trials
from tune.results.html.page import write_page
from tune.results.leaderboard import build_leaderboard, write_leaderboard
from tune.results.ranking import certified_radii

TRIALS = 3


def test_the_readme_shows_what_the_script_makes() -> None:
    shown = set(re.findall(r"\(\.github/images/([\w.]+)\)", (ROOT / "README.md").read_text()))
    assert shown == {f"{name}.png" for name in pictures.NAMES}
    assert all((pictures.IMAGES / name).is_file() for name in shown)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_script_draws_a_small_sweep(tmp_path: Path) -> None:
    template = run_one_trial(tmp_path)
    sweep = template.read_record().sweep.model_copy(update={"trials": TRIALS})
    directory = with_trials(template, tmp_path / "many", sweep, TRIALS)
    write_leaderboard(directory, build_leaderboard(directory, certified_radii(directory)))
    write_page(directory, directory.page_path)
    for path in pictures.draw(directory, tmp_path / "images"):
        with Image.open(path) as image:
            # A page that is not drawn has a colour or two.
            assert image.width >= 700 and len(image.convert("RGB").getcolors(2**24) or ()) > 50
