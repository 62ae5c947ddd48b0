"""A sweep of which everything that can go has gone does all that it did before."""

import shutil
from pathlib import Path

import pytest

from tests.commands import contents, decrop
from tests.tune.runs import FinishedSweep, running_on
from tune.cluster import ClusterSize
from tune.directory import SweepDirectory


@pytest.mark.slow
def test_a_cleaned_sweep_does_what_it_did(
    finished: FinishedSweep, local_ray: ClusterSize, tmp_path: Path
) -> None:
    shutil.copytree(finished.directory.path, tmp_path / "copied")
    directory = SweepDirectory.open(tmp_path / "copied")
    before = contents(directory.path)
    ran = decrop("clean", directory.path, "--top", 1, "--yes", "--json")
    assert ran.code == 0 and ran.last_line["removed"] and ran.last_line["megabytes"] > 0
    after = contents(directory.path)
    gone = set(before) - set(after)
    assert gone and all(name.endswith("/checkpoint.pt") for name in gone)
    assert len(gone) == ran.last_line["files"]

    with running_on(local_ray):
        resumed = decrop("resume", directory.path, "--json")
    assert resumed.code == 0 and "started" not in resumed.out
    assert resumed.last_line["best"] == finished.ran.last_line["best"]
    assert decrop("leaderboard", directory.path).code == 0
    audited = decrop("audit", directory.path, "--json")
    assert audited.code == 0, audited.out
    for number in directory.trial_numbers():
        to = tmp_path / f"bundle-{number}"
        exported = decrop("export", directory.path, "--to", to, "--trial", number)
        assert exported.code == 0, exported.err
        verified = decrop("verify", to)
        assert verified.code == 0, verified.out + verified.err
