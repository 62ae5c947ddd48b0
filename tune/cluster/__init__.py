"""The Ray cluster a sweep runs on, and files that start one."""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Read by Ray when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
import torch

from decrop.errors import InputError
from tune.sweep_file import Resources, ResourceSettings

# Shares of a GPU where a sweep does not say: two trials, or four helpers, keep one busy.
_TRIAL_GPU, _HELPER_GPU = 0.5, 0.25
_ROUNDING = 1e-9
_ANSWER_SECONDS = 5.0
_STATUS_SECONDS = 30.0


@dataclass(frozen=True)
class Claim:
    """What one process takes of a machine; a fraction of a GPU shares it."""

    cpu: float
    gpu: float


@dataclass(frozen=True)
class Machines:
    """So many machines that are alike, and the CPUs and GPUs that each has."""

    cpu: float
    gpu: float
    count: int = 1

    def room(self, claim: Claim) -> int:
        """Return how many processes with a claim run on them side by side."""
        on_each = int(self.cpu / claim.cpu + _ROUNDING)
        if claim.gpu > 1:
            on_each = min(on_each, int(self.gpu / claim.gpu + _ROUNDING))
        elif claim.gpu > 0:
            # Shares of one GPU each.
            on_each = min(on_each, int(self.gpu + _ROUNDING) * int(1 / claim.gpu + _ROUNDING))
        return self.count * on_each


@dataclass(frozen=True)
class ClusterSize:
    """The machines of a cluster.

    Attributes:
        machines: that are there.
    """

    machines: tuple[Machines, ...]

    @property
    def cpu(self) -> float:
        """CPUs of all machines."""
        return sum(machines.count * machines.cpu for machines in self.machines)

    @property
    def gpu(self) -> float:
        """GPUs of all machines."""
        return sum(machines.count * machines.gpu for machines in self.machines)

    def room(self, claim: Claim) -> int:
        """Return how many processes with a claim run side by side, each on one machine."""
        return sum(machines.room(claim) for machines in self.machines)


@dataclass(frozen=True)
class Claims:
    """What the processes of a sweep take.

    Attributes:
        trial: each trial.
        helper: each helper.
        max_helpers: helpers of one trial at a time.
        max_concurrent: trials at a time; None for as many as fit.
    """

    trial: Claim
    helper: Claim
    max_helpers: int
    max_concurrent: int | None

    def trials_at_once(self, size: ClusterSize) -> int:
        """Return how many trials run side by side on a cluster, at least one."""
        fit = size.room(self.trial)
        return max(1, min(fit, self.max_concurrent or fit))


def local_size() -> ClusterSize:
    """Return what a cluster started on this machine will have."""
    here = Machines(len(os.sched_getaffinity(0)), torch.cuda.device_count())
    return ClusterSize((here,))


def cluster_size() -> ClusterSize:
    """Return what the cluster has that this process is connected to."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return ClusterSize(
        tuple(Machines(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in alive)
    )


@contextmanager
def cluster(address: str | None) -> Iterator[ClusterSize]:
    """Connect to a cluster, or start one on this machine, for the length of a block.

    Args:
        address: of a running cluster (`auto` or HOST:PORT); None starts one on this machine.
    """
    if address is None:
        size = local_size()
        # `local`, for Ray would otherwise join a cluster that runs on this machine.
        ray.init(
            address="local",
            num_cpus=int(size.cpu),
            # Idle workers that are kept. Ray keeps as many as CPUs are free, so on a busy machine
            # it would kill each helper between two leases, and importing PyTorch takes longer.
            _system_config={"num_workers_soft_limit": 2 * int(size.cpu)},
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    else:
        try:
            if address != "auto":
                _require_listener(address)
            _require_welcome(address)
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(
                f"--address {address}: no Ray cluster answers there ({_first_line(error)}); start "
                "one with `ray start --head`, or leave the option out to use this machine."
            ) from None
    try:
        yield cluster_size()
    finally:
        ray.shutdown()


def claims(settings: ResourceSettings, size: ClusterSize) -> Claims:
    """Fill in the GPU shares that a sweep leaves open, and refuse what could never be met."""
    return Claims(
        trial=_claim("trial", settings.trial, _TRIAL_GPU, size),
        helper=_claim("helper", settings.helper, _HELPER_GPU, size),
        max_helpers=settings.max_helpers,
        max_concurrent=settings.max_concurrent,
    )


def _claim(name: str, asked: Resources, gpu_share: float, size: ClusterSize) -> Claim:
    gpu = asked.gpu if asked.gpu is not None else gpu_share if size.gpu > 0 else 0.0
    for kind, wanted, there in (("cpu", asked.cpu, size.cpu), ("gpu", gpu, size.gpu)):
        if wanted > there:
            raise InputError(
                f"resources.{name}.{kind} = {wanted:g}, but the cluster has {there:g}; "
                f"use --set resources.{name}.{kind}={there:g} or less."
            )
    return Claim(asked.cpu, gpu)


def _require_listener(address: str) -> None:
    """Refuse at once what Ray would try to reach for a quarter of an hour."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"--address {address}: must be auto or HOST:PORT.")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()


def _require_welcome(address: str) -> None:
    """Refuse at once where a token is missing; Ray would try for long and not say why.

    Asked by Ray's own command, because its client ends the process where a token cannot be read.
    """
    command = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
    asked = subprocess.run(
        command, capture_output=True, text=True, timeout=_STATUS_SECONDS, check=False
    )
    if asked.returncode == 0:
        return
    if "token" in asked.stderr.lower():
        raise InputError(
            f"--address {address}: the cluster wants a token, and this process has another or none;"
            " set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file that the cluster was "
            "started with."
        )
    raise ConnectionError(asked.stderr.strip().rpartition("\n")[2] or "ray status failed")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
