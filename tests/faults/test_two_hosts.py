"""Sweeps on a Ray cluster of two hosts, run by the command as on any cluster."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from decrop.cache import ContentCache
from decrop.config import ClassifierSettings, DatasetSettings, TrialConfig
from decrop.data.datasets import load_dataset
from decrop.data.images import ImageSource
from decrop.evaluation.table import CertificateTable
from decrop.training.trained_classifier import load_classifier
from decrop.trial.folder import TrialFolder
from decrop.trial.prepare import load_inputs
from decrop.trial.run import certify_undefended, run_trial
from tests.decrop.data.encoded import png
from tests.decrop.digits_trial import certificates
from tests.faults.hosts import RAY, Cluster, Host, ray_cluster
from tests.mlflow_server.processes import eventually
from tests.tune.runs import only_sweep, write_sweep
from tune.directory import SweepDirectory

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(1200)]

DECROP = (sys.executable, "-c", "from decrop.cli import main; main()")
ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
CLASSIFIER = ClassifierSettings.model_validate({"source": "small_cnn", "training": {"epochs": 2}})
# A host has room for one trial with two helpers, so two trials at once need both hosts.
HOST_CPUS = 3
# Of a process that is at work on a trial, and on a helper's lease.
TITLES = ("ray::ResourceTrainable", "ray::_sample_lease")
# On a machine that is busy with other work too; half a minute on one that is not.
SWEEP_SECONDS = 500
SWEEP: dict[str, Any] = {
    "name": "two-hosts",
    "base": "digits",
    "search": "rows",
    "rows": {"cosine 2": {"training.loss_weights.cosine": 2.0}, "as published": {}},
    "trial": {
        "limited": {"fraction": 0.08},
        "classifier": {"source": "small_cnn", "training": None},
        "boundary": {"steps": 2},
        "interpolation": {"steps": 2},
        "denoiser": {"depth": 4, "channels": 16},
        "training": {"epochs": 2, "discriminator_epochs": 1, "evaluations": 2},
        # As many samples as last until helpers have begun.
        "certification": {
            "procedure": "fixed",
            "selection_samples": 100,
            "estimation_samples": 1000,
            "held_out_samples": 8000,
            "pruning_samples": 20,
            "test_images": 10,
        },
    },
    "resources": {"trial": {"cpu": 1.9}, "helper": {"cpu": 0.5}, "max_helpers": 2},
}
NOTHING_WRONG = {"lost": 0, "doubled": 0, "metric_mismatches": 0}


def write_split(path: Path, source: ImageSource) -> None:
    images = source.images(torch.arange(len(source.labels)))
    encoded = [png(image[0].numpy()) for image in images]
    pq.write_table(pa.table({"image": encoded, "label": source.labels.numpy()}), path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the data set and the classifier's weights."""
    folder = tmp_path_factory.mktemp("data")
    digits = load_dataset(DatasetSettings(name="digits"))
    write_split(folder / "train.parquet", digits.train)
    write_split(folder / "test.parquet", digits.test)
    cache = ContentCache(tmp_path_factory.mktemp("cache"))
    classifier = load_classifier(TrialConfig(classifier=CLASSIFIER), digits, cache, CPU)
    save_file(classifier.network.state_dict(), folder / "weights.safetensors")
    return folder


@pytest.fixture
def sweep(data: Path, tmp_path: Path) -> Path:
    return sweep_file(data, tmp_path)


def sweep_file(data: Path, folder: Path) -> Path:
    digits = load_dataset(DatasetSettings(name="digits"))
    classifier = {"weights": str(data / "weights.safetensors"), "mean": digits.mean}
    trial = {
        "dataset": {"name": "parquet", "path": str(data)},
        "classifier": {**classifier, "std": digits.std},
    }
    return write_sweep(folder, SWEEP, trial=json.loads(json.dumps(trial)))


@pytest.fixture(scope="module")
def cluster(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Start a cluster whose second host does not have the data set."""

    def hide(first: Host, second: Host) -> None:
        if second.init is not None:
            second.hide(data)

    with ray_cluster(tmp_path_factory.mktemp("cluster"), cpus=HOST_CPUS, before=hide) as started:
        yield started


@pytest.fixture(scope="module")
def undisturbed(
    cluster: Cluster, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> SweepDirectory:
    sweep = sweep_file(data, tmp_path_factory.mktemp("undisturbed"))
    finished(begin(cluster, sweep))
    return only_sweep(sweep.parent / "sweeps")


def begin(cluster: Cluster, sweep: Path, *options: str) -> "subprocess.Popen[str]":
    """Start a sweep from the head."""
    return cluster.head.start(
        *(*DECROP, "sweep", sweep, "--address", cluster.address),
        *("--out", sweep.parent / "sweeps", *options),
        environment=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finished(process: "subprocess.Popen[str]") -> None:
    out, _ = process.communicate(timeout=SWEEP_SECONDS)
    assert process.returncode == 0, out


def certified(directory: SweepDirectory) -> dict[str, list[tuple[Any, ...]]]:
    """Return all certificates of a sweep, without the time they took."""
    folders: dict[str, TrialFolder] = {"undefended": directory.undefended}
    folders |= {f"trials/{n}": directory.trial(n) for n in directory.trial_numbers()}
    folders |= {f"final/{n}": directory.final(n) for n in directory.final_numbers()}
    tables = {
        key: CertificateTable.read_tsv(folder.certificates_path) for key, folder in folders.items()
    }
    return {key: certificates(table) for key, table in tables.items()}


def certified_by_one_process(directory: SweepDirectory, out: Path) -> dict[str, Any]:
    """Return the certificates of a sweep as this process computes them, without Ray."""
    cache = ContentCache(out / "cache")
    folders: dict[str, TrialFolder] = {"undefended": TrialFolder(out / "undefended")}
    for number in directory.trial_numbers():
        record = directory.trial(number).read_record()
        assert record is not None
        inputs = load_inputs(record.config, cache, CPU)
        held_out, test = (f"{kind}/{number}" for kind in ("trials", "final"))
        folders |= {key: TrialFolder(out / key) for key in (held_out, test)}
        list(run_trial(record.config, inputs, folders[held_out], cache, split="held_out"))
        list(run_trial(record.config, inputs, folders[test], cache, split="test"))
        certify_undefended(record.config, inputs, folders["undefended"])
    return {
        key: certificates(CertificateTable.read_tsv(folder.certificates_path))
        for key, folder in folders.items()
    }


def audited(directory: SweepDirectory) -> dict[str, int]:
    done = subprocess.run(
        [*DECROP, "audit", str(directory.path), "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return counts


def samples_by_host(directory: SweepDirectory) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for folder in (
        *map(directory.trial, directory.trial_numbers()),
        *map(directory.final, directory.final_numbers()),
        directory.undefended,
    ):
        for host, by_role in folder.read_samples().items():
            of_host = total.setdefault(host, {"trial": 0, "helpers": 0})
            for role, samples in by_role.items():
                of_host[role] += samples
    return total


@pytest.mark.quick
def test_trials_and_helpers_run_on_both_hosts(
    cluster: Cluster, undisturbed: SweepDirectory
) -> None:
    samples = samples_by_host(undisturbed)
    for host, by_role in sorted(samples.items()):
        print(f"{host}: {by_role['trial']:,} samples by trials, {by_role['helpers']:,} by helpers")
    assert set(samples) == {cluster.head.address, cluster.second.address}
    assert all(drawn > 0 for by_role in samples.values() for drawn in by_role.values())


@pytest.mark.quick
def test_certificates_are_those_of_one_process(undisturbed: SweepDirectory, tmp_path: Path) -> None:
    found = certified(undisturbed)
    assert set(found) == {"undefended", "trials/0", "trials/1", "final/0", "final/1"}
    assert found == certified_by_one_process(undisturbed, tmp_path)


@pytest.mark.quick
def test_without_the_token_a_cluster_cannot_be_used(cluster: Cluster, sweep: Path) -> None:
    wrong = sweep.parent / "wrong-token"
    wrong.write_text("0" * 64)
    out = sweep.parent / "sweeps"
    refused = [
        cluster.head.start(
            *(*DECROP, "sweep", sweep, "--address", cluster.address, "--out", out),
            environment=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for environment in (
            cluster.without_token,
            {**cluster.environment, "RAY_AUTH_TOKEN_PATH": str(wrong)},
        )
    ]
    for process in refused:
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 2, said
        (line,) = said.splitlines()
        assert line.startswith(f"error: --address {cluster.address}: the cluster wants a token")
        assert "RAY_AUTH_TOKEN_PATH" in line
    assert not out.exists()


def test_a_sweep_outlives_its_second_host(
    undisturbed: SweepDirectory, data: Path, sweep: Path, tmp_path: Path
) -> None:
    ray_files = tmp_path / "cluster"
    ray_files.mkdir()
    with ray_cluster(ray_files, cpus=HOST_CPUS) as cluster:
        process = begin(cluster, sweep)
        second = cluster.second

        def both_run_there() -> bool:
            assert process.poll() is None, process.communicate()[0]
            return all(second.pids(title) for title in TITLES)

        assert eventually(both_run_there, SWEEP_SECONDS)
        (raylet,) = second.pids("raylet")
        os.kill(raylet, signal.SIGKILL)
        struck = time.monotonic()
        finished(process)
        print(f"ended {time.monotonic() - struck:.0f} s after the second host's raylet was killed")
    directory = only_sweep(sweep.parent / "sweeps")
    assert audited(directory) == {"trials": 2, **NOTHING_WRONG}
    assert certified(directory) == certified(undisturbed)


def test_a_job_brings_its_code_and_settings(
    cluster: Cluster, undisturbed: SweepDirectory, sweep: Path, tmp_path: Path
) -> None:
    pytest.importorskip("aiohttp_cors", reason="jobs are submitted to the dashboard: ray[default]")
    travels = tmp_path / "travels"
    for package in ("decrop", "tune"):
        shutil.copytree(ROOT / package, travels / package, ignore=shutil.ignore_patterns("__pyc*"))
    # No other copy of the code has this preset.
    sweep.rename(travels / "tune" / "presets" / "travelled.yaml")
    out = tmp_path / "sweeps"
    submitted = cluster.head.run(
        *(RAY, "job", "submit", "--address", cluster.jobs, "--working-dir", travels, "--"),
        *("decrop", "sweep", "travelled", "--address", "auto", "--out", out),
        environment=cluster.environment,
        timeout=SWEEP_SECONDS,
    )
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert certified(only_sweep(out)) == certified(undisturbed)
    refused = cluster.head.run(
        *(RAY, "job", "list", "--address", cluster.jobs), environment=cluster.without_token
    )
    assert refused.returncode != 0 and "token" in (refused.stdout + refused.stderr).lower()


def test_sweeps_share_a_cluster(
    cluster: Cluster, undisturbed: SweepDirectory, data: Path, tmp_path: Path
) -> None:
    # Of each at most one trial at a time, so that both are at work at once.
    sweeps = [tmp_path / name for name in ("one", "other")]
    for folder in sweeps:
        folder.mkdir()
    processes = [
        begin(cluster, sweep_file(data, folder), "--set", "resources.max_concurrent=1")
        for folder in sweeps
    ]
    for process in processes:
        finished(process)
    directories = [only_sweep(folder / "sweeps") for folder in sweeps]
    for directory in directories:
        assert audited(directory) == {"trials": 2, **NOTHING_WRONG}
        assert certified(directory) == certified(undisturbed)
    spans = [trials_span(directory) for directory in directories]
    assert max(began for began, _ in spans) < min(ended for _, ended in spans)


def trials_span(directory: SweepDirectory) -> tuple[float, float]:
    """Return when the first trial began and the last one ended, in seconds."""
    states = [directory.trial(number).read_state() for number in directory.trial_numbers()]
    known = [state for state in states if state is not None]
    ends = [state.ended.timestamp() for state in known if state.ended is not None]
    return min(state.started.timestamp() for state in known), max(ends)
