"""A sweep on a Ray cluster of two hosts, run by the command as on any cluster."""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.hosts import Cluster, Host, ray_cluster
from tests.tune.runs import decrop, only_sweep, write_sweep
from tune.directory import SweepDirectory, SweepTrialFolder

DECROP = [sys.executable, "-c", "from decrop.cli import main; main()"]
# A host has room for one trial and a helper, so that two trials at a time need both.
CPUS = 2
SWEEP: dict[str, Any] = {
    "name": "two-hosts",
    "base": "digits",
    "search": "rows",
    "rows": {"cosine": {"training.loss_weights.cosine": 2.0}, "plain": {}},
    "trial": {
        "limited": {"fraction": 0.08},
        "classifier": {"training": {"epochs": 2}},
        "boundary": {"steps": 2},
        "interpolation": {"steps": 2},
        "denoiser": {"depth": 4, "channels": 16},
        "training": {"epochs": 2, "discriminator_epochs": 1, "evaluations": 2},
        # Long enough for helpers to begin.
        "certification": {
            "procedure": "fixed",
            "selection_samples": 100,
            "estimation_samples": 4000,
            "held_out_samples": 8000,
            "pruning_samples": 20,
            "test_images": 20,
        },
    },
    "resources": {"trial": {"cpu": 1.5}, "helper": {"cpu": 0.5}, "max_helpers": 2},
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ray_cluster(tmp_path_factory.mktemp("cluster"), cpus=CPUS) as started:
        yield started


def swept(cluster: Cluster, sweep: Path, *options: str) -> SweepDirectory:
    """Run a sweep from the head to its end."""
    out = sweep.parent / "sweeps"
    began = time.monotonic()
    ran = cluster.head.run(
        *(*DECROP, "sweep", sweep, "--address", cluster.address, "--out", out, *options),
        environment=cluster.environment,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    print(f"{time.monotonic() - began:.0f} s")
    return only_sweep(out)


def folders(directory: SweepDirectory) -> dict[str, SweepTrialFolder]:
    """Return the folders of all that a sweep has certified."""
    found = {f"trials/{n}": directory.trial(n) for n in directory.trial_numbers()}
    found |= {f"final/{n}": directory.final(n) for n in directory.final_numbers()}
    return {**found, "undefended": directory.undefended}


def test_trials_and_helpers_run_on_both_hosts(cluster: Cluster, tmp_path: Path) -> None:
    directory = swept(cluster, write_sweep(tmp_path, SWEEP))
    for key, folder in folders(directory).items():
        print(key, folder.read_samples(), folder.read_result()["seconds"])
