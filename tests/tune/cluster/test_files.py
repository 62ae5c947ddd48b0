"""The files that start a cluster: well formed, and what they run is what the command takes."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.commands import Ran, decrop
from tests.small_cifar10 import write_cifar10
from tests.tune.runs import end_session, session, write_sweep
from tune.cluster import ClusterSize, Machines

ROOT = Path(__file__).parents[3]
FILES = ROOT / "tune" / "cluster"
RAY_CLUSTER, RAY_JOB, SLURM = (
    FILES / name for name in ("ray-cluster.yaml", "rayjob.yaml", "sweep.slurm")
)
SLURM_JOB = 4321


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write what the files expect on the path that all machines see, in small."""
    folder = tmp_path_factory.mktemp("shared")
    write_cifar10(folder)
    return {f"/shared/{path.name}": path for path in folder.iterdir()}


def planned(
    entrypoint: str, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, *more: str
) -> Ran:
    """Run an entrypoint with `--dry-run`, its paths replaced, on a cluster of 8 CPUs."""
    asked: list[str | None] = []

    def cluster(address: str | None) -> Any:
        asked.append(address)
        return nullcontext(ClusterSize((Machines(8.0, 0.0),)))

    monkeypatch.setattr("tune.cluster.cluster", cluster)
    program, *arguments = shlex.split(_in_place(entrypoint, places))
    assert program == "decrop"
    ran = decrop(*arguments, *more, "--dry-run")
    assert asked == ["auto"], ran.out + ran.err
    return ran


def _in_place(text: str, places: dict[str, Path]) -> str:
    for place, path in places.items():
        text = text.replace(place, str(path))
    return text


def comment(path: Path) -> str:
    lines = path.read_text().splitlines()
    return "\n".join(line.removeprefix("#") for line in lines if line.startswith("#"))


def test_ray_takes_the_cluster_file() -> None:
    config = prepare_config(yaml.safe_load(RAY_CLUSTER.read_text()))
    validate_config(config)
    assert config["provider"]["type"] == "local"
    assert config["max_workers"] == len(config["provider"]["worker_ips"])


def test_all_nodes_of_the_cluster_file_ask_for_the_token() -> None:
    config = yaml.safe_load(RAY_CLUSTER.read_text())
    for role in ("head", "worker"):
        (start,) = [line for line in config[f"{role}_start_ray_commands"] if "ray start" in line]
        assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/shared/" in start


@pytest.mark.slow
def test_the_command_in_the_cluster_file_is_in_order(
    shared: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = re.findall(r"^ +(decrop sweep .*)$", comment(RAY_CLUSTER), re.MULTILINE)
    elided = " --set dataset.path=… --set …"
    assert line.endswith(elided)
    given = (
        f"--set dataset.path={shared['/shared/cifar10']}",
        f"--set classifier.weights={shared['/shared/weights.safetensors']}",
    )
    entrypoint = " ".join([line.removesuffix(elided), *given])
    ran = planned(entrypoint, {}, monkeypatch, "--set", "limited.fraction=0.5")
    assert ran.code == 0, ran.out + ran.err


@pytest.mark.slow
def test_the_entrypoint_of_the_ray_job_is_in_order(
    shared: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, job = yaml.safe_load_all(RAY_JOB.read_text())
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(_in_place(settings["data"]["sweep.yaml"], shared))
    places = {"/settings/sweep.yaml": sweep}
    more = ("--set", "limited.fraction=0.5", "--json")
    ran = planned(job["spec"]["entrypoint"], places, monkeypatch, *more)
    assert ran.code == 0, ran.out + ran.err
    assert ran.last_line["trials"] == yaml.safe_load(sweep.read_text())["trials"]


def test_all_pods_of_the_ray_job_see_settings_and_shared_files() -> None:
    settings, job = yaml.safe_load_all(RAY_JOB.read_text())
    spec = job["spec"]["rayClusterSpec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        (container,) = pod["containers"]
        mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert volumes[mounted["/settings"]]["configMap"]["name"] == settings["metadata"]["name"]
        assert "persistentVolumeClaim" in volumes[mounted["/shared"]]


def test_versions_are_those_that_are_installed() -> None:
    constraints = (ROOT / "constraints.txt").read_text()
    (ray,) = re.findall(r"^ray==(.*)$", constraints, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    _, job = yaml.safe_load_all(RAY_JOB.read_text())
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == ray
    assert f"Ray {ray.rpartition('.')[0]} " in comment(RAY_JOB)
    image = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert image["image"].endswith(f":{project['version']}")


def test_the_files_are_installed_with_the_package() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = data["package-data"]["tune"]
    installed = {path for pattern in patterns for path in (ROOT / "tune").glob(pattern)}
    assert {RAY_CLUSTER, RAY_JOB, SLURM} <= installed


@pytest.mark.slow
def test_the_slurm_script_starts_ray_and_ends_it(tmp_path: Path) -> None:
    # The two commands of SLURM that it uses, on a single node: this machine.
    commands = {
        "scontrol": '[ "$1 $2 $3" = "show hostnames this-node" ] && echo 127.0.0.1',
        "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    }
    fakes = tmp_path / "bin"
    fakes.mkdir()
    for name, body in commands.items():
        (fakes / name).write_text(f"#!/bin/bash\n{body}\n")
        (fakes / name).chmod(0o755)
    checkout = tmp_path / "decrop"
    checkout.mkdir()
    (checkout / ".venv").symlink_to(sys.prefix)
    token = tmp_path / f".decrop-ray-token-{SLURM_JOB}"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SLURM_"))}
    process = subprocess.Popen(
        ["bash", SLURM],
        env={
            **inherited,
            "PATH": f"{fakes}:{inherited['PATH']}",
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "DECROP": str(checkout),
            "COMMAND": f"sweep {write_sweep(tmp_path)} --dry-run --json",
            "SLURM_JOB_ID": str(SLURM_JOB),
            "SLURM_JOB_NODELIST": "this-node",
            "SLURM_CPUS_ON_NODE": "3",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=200)
        assert process.returncode == 0, out
        plan = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
        assert plan["trials"] == 4
        # Of the cluster that the script started.
        assert "on 3 CPUs" in out
        assert not token.exists()
        assert session(process.pid) == set()
    finally:
        end_session(process.pid)
